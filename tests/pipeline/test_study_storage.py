"""Where the study of a search lies, and that passwords stay out of what is written down."""

import json
import pickle
import sqlite3
from collections import Counter
from dataclasses import replace

import optuna
import pytest
import sqlalchemy
from ray.tune.error import TuneError

from pipeline.command import TrainingError, is_disk_full
from pipeline.options import CONFIG, load, parse, store
from pipeline.tuning.options import SearchOptions, masked
from pipeline.tuning.study import Sampling, StudySearch, enqueue_first, open_study, records
from pipeline.tuning.study_storage import check_storage, storage_errors
from pixcon_core.presets import PRESETS

SPACE = {"contrast.temperature": optuna.distributions.FloatDistribution(0.03, 1.0, log=True)}
SECRET = "s3cret"


def folders(tmp_path, *names):
    made = [tmp_path / name / "camvid-search-1" for name in names]
    for folder in made:
        folder.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@host:1/db", "postgresql://me:***@host:1/db"),
        (f"mysql+pymysql://me@host/db?Password={SECRET}&ssl=1", "mysql+pymysql://me@host/db?Password=***&ssl=1"),
        ("postgresql://me:${PGPASSWORD}@host/db", "postgresql://me:${PGPASSWORD}@host/db"),
        ("postgresql://me:$PGPASSWORD@host/db?sslmode=require", "postgresql://me:$PGPASSWORD@host/db?sslmode=require"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
        ("postgresql://host:5432/db?sslmode=require", "postgresql://host:5432/db?sslmode=require"),
        ("postgresql://me:pa/ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:p@s/s:@host/db?user=a@b", "postgresql://me:***@host/db?user=a@b"),
        ("postgresql://me:pa?ss@host/db?sslmode=require", "postgresql://me:***@host/db?sslmode=require"),
        ("postgresql://me:p?a=b@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@azure:pass@host/db", "postgresql://me@azure:***@host/db"),
        ("postgresql://me:$PW-extra@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:$PW$PW@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:$@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:***@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=s&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://host/db?password=a&b&x=1", "postgresql://host/db?password=***&x=1"),
        ("postgresql://host/db?password=$PW&x=1", "postgresql://host/db?password=$PW&x=1"),
        ("postgresql://host/db?password=$PW-extra", "postgresql://host/db?password=***"),
        ("mssql+pyodbc://?odbc_connect=UID%3Dme%3BPWD%3Dsecret%3B", "mssql+pyodbc://?odbc_connect=***"),
        ("mssql+pyodbc://?odbc_connect=UID%3Dme%3BPWD%3D%24PW", "mssql+pyodbc://?odbc_connect=***"),
        ("mssql+pyodbc://?odbc_connect=PWD%3D$PW%3BUID%3Dme", "mssql+pyodbc://?odbc_connect=PWD%3D$PW%3BUID%3Dme"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
    ],
)
def test_a_password_is_masked_and_nothing_else(url, shown):
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:abc$" + SECRET + "@host/db", "names a variable in its password"),
        ("postgresql://me:$NO_SUCH_PASSWORD@host/db", "names $NO_SUCH_PASSWORD, and the environment"),
        (f"postgresql://me:p@{SECRET}@host/db", "postgresql://me:***@host/db has an @ in its user or password"),
        ("postgresql://me:$WITH_AT@host/db", "Write it as %40, also in a variable"),
        (f"mysql+nodriver://me:pa/{SECRET}@host/db", "mysql+nodriver://me:***@host/db needs a driver"),
    ],
)
def test_an_error_about_a_storage_has_no_password_in_it(url, message, monkeypatch):
    monkeypatch.setenv("WITH_AT", f"p@{SECRET}")
    with pytest.raises(ValueError, match=r"^--storage: ") as error:
        check_storage(url)
    assert message in str(error.value)
    assert SECRET not in str(error.value)


def test_a_search_of_a_version_that_masked_less_goes_on_with_the_same_storage(tmp_path):
    url = "postgresql://me:$PW-extra@host/db"
    folder = tmp_path / "mini-camvid-search-1"
    folder.mkdir()
    store(folder, "mini-camvid", PRESETS["mini-camvid"], SearchOptions(storage=url))
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace("***", "$PW-extra"))
    again = ["--search", "--resume", "--out", str(tmp_path)]
    for more in ([], ["--storage", url]):
        assert parse([*again, *more]).search == SearchOptions(storage=url)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_searches_in_one_storage_have_studies_of_their_own_and_find_them_again(scheme, tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIES", str(tmp_path / "studies"))
    url = f"{scheme}:///$STUDIES"
    first, second = folders(tmp_path, "a", "b")
    for folder, value in ((first, 0.1), (second, 0.2)):
        study = open_study(folder, url)
        enqueue_first(study, {"contrast.temperature": value})
        study.tell(study.ask(SPACE), value)
    for folder, name, value in ((first, "camvid-search-1", 0.1), (second, "camvid-search-1-2", 0.2)):
        study = open_study(folder, url)
        assert study.study_name == name
        assert json.loads((folder / "study.json").read_text()) == {"storage": url, "study": name}
        assert [one.state for one in records(study)] == ["complete"]
        assert study.best_params == {"contrast.temperature": value}


def test_a_storage_without_the_study_of_the_folder_is_refused(tmp_path):
    (folder,) = folders(tmp_path, "a")
    open_study(folder, f"sqlite:///{tmp_path}/one.db")
    with pytest.raises(ValueError, match=r"has no study camvid-search-1, which .*study\.json names"):
        open_study(folder, f"sqlite:///{tmp_path}/other.db")


def test_a_search_goes_on_only_with_the_password_that_is_not_written_down(tmp_path):
    url = f"postgresql://me:{SECRET}@host/db"
    folder = tmp_path / "mini-camvid-search-1"
    folder.mkdir()
    store(folder, "mini-camvid", PRESETS["mini-camvid"], SearchOptions(storage=url, seeds_per_trial=2))
    assert SECRET not in (folder / CONFIG).read_text()
    assert load(folder).search == SearchOptions(storage=masked(url), seeds_per_trial=2)
    again = ["--search", "--resume", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match=r"the password of postgresql://me:\*\*\*@host/db is not written down"):
        parse(again)
    with pytest.raises(ValueError, match=r"--storage is postgresql://me:\*\*\*@host/db .* not sqlite:///x\.db"):
        parse([*again, "--storage", "sqlite:///x.db"])
    with pytest.raises(ValueError, match=r"--seeds_per_trial is 2 .* not 3"):
        parse([*again, "--storage", url, "--seeds_per_trial", "3"])
    assert parse([*again, "--storage", url]).search == SearchOptions(storage=url, seeds_per_trial=2)


def test_what_ray_tune_writes_down_of_the_searcher_has_no_url(tmp_path):
    study = open_study(*folders(tmp_path, SECRET))
    searcher = StudySearch(study, SPACE, 8, Sampling(), Counter(), print)
    assert SECRET in str(pickle.dumps(study._storage))
    assert SECRET not in str(pickle.dumps(searcher))


def test_what_a_trial_chooses_hangs_on_its_number_and_what_is_known_not_on_the_process():
    chosen = {}
    for how in ("once", "again"):
        study = optuna.create_study()
        for number in range(8):
            if how == "again":  # as after a resume: another study object over the same trials
                trials = study.get_trials()
                study = optuna.create_study()
                study.add_trials(trials)
            study.sampler = Sampling(seed=3, trials=8).sampler(number)
            trial = study.ask()
            study.tell(trial, trial.suggest_float("x", 0, 1) ** 2)
        chosen[how] = [trial.params["x"] for trial in study.trials]
    assert chosen["once"] == chosen["again"]
    assert len(set(chosen["once"])) == 8


def test_seeds_and_resources_are_checked():
    for field in ("seeds_per_trial", "cpus_per_trial"):
        with pytest.raises(ValueError, match=f"{field} must be"):
            replace(SearchOptions(), **{field: 0})
    with pytest.raises(ValueError, match="gpus_per_trial must be >= 0 and finite"):
        SearchOptions(gpus_per_trial=-0.5)


def test_a_trial_whose_process_dies_is_handed_out_again_and_has_failed_the_third_time(tmp_path):
    study = open_study(*folders(tmp_path, "a"))
    enqueue_first(study, {"contrast.temperature": 0.1})
    changed = []
    searcher = StudySearch(study, SPACE, 8, Sampling(), Counter(), changed.append)
    for number in range(3):
        given = searcher.suggest(f"ray{number}")
        assert (given["number"], given["changes"]) == (0, {"contrast.temperature": 0.1})
        searcher.on_trial_complete(f"ray{number}", error=True)
    assert [(one.number, one.state) for one in changed] == [(0, "failed")]
    assert "died" in changed[0].reason
    assert searcher.suggest("ray3")["number"] == 1


def as_tune_does(write):
    """Write in the way of Ray Tune, which hands on another error."""
    try:
        write()
    except Exception:
        raise TuneError("a traceback") from None


def test_a_full_disk_under_a_study_is_said_as_that(tmp_path):
    study, most_pages = open_study(tmp_path), [2**30]
    engine = study._storage._backend.engine

    @sqlalchemy.event.listens_for(engine, "checkout")
    def limit(connection, *_):
        connection.execute(f"PRAGMA max_page_count={most_pages[0]}")

    most_pages[0] = (tmp_path / "study.db").stat().st_size // 4096
    with pytest.raises(OSError, match="No space left on device, for the study") as raised, storage_errors():
        as_tune_does(lambda: [study.set_user_attr(f"name {i}", "x" * 2000) for i in range(10)])
    assert is_disk_full(raised.value)
    most_pages[0] = 2**30
    study.set_user_attr("after", 1)
    assert study.user_attrs["after"] == 1


def test_another_failure_of_the_database_is_one_line(tmp_path):
    study = open_study(tmp_path)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("DROP TABLE study_user_attributes")
    with pytest.raises(TrainingError, match=r"the study cannot be written \(no such table"), storage_errors():
        as_tune_does(lambda: study.set_user_attr("name", 1))


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError), storage_errors():
        1 / 0  # noqa: B018
