"""Where the study of a search lies: `study.db` in the run folder, or any storage of Optuna's by its URL.

A URL may name environment variables. It is kept as it was given, without a password that it spells out.
"""

import contextlib
import errno
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url

from pipeline.command import TrainingError, is_disk_full
from pipeline.tuning.options import masked, passwords
from pixcon_core.models.weights import reason

STUDY, STUDY_FILE, STUDY_NAME = "search", "study.db", "study.json"
JOURNAL = "journal:///"
SQLITE_IS_FULL = "database or disk is full"
LOCK_SECONDS = 60
"""Someone may be looking at the study meanwhile, which locks it."""
CONNECT_SECONDS = 10
DRIVERS = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient",
    "pymysql": "pymysql",
}
"""Packages by the names that SQLAlchemy has for them; which one postgresql:// stands for hangs on its version."""


def check_storage(url: str) -> None:
    """Refuse a URL whose database cannot be used, by connecting to it.

    Raises:
        ValueError: If so.
    """
    _open(url)


def open_storage(url: str | None, folder: Path) -> tuple[BaseStorage, str]:
    """Return the storage of a run folder's study, and the study's name, which no other search in the storage has.

    Raises:
        ValueError: If the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if url is None:
        return _open(f"sqlite:///{folder.resolve() / STUDY_FILE}"), STUDY
    storage, file = _open(url), folder / STUDY_NAME
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps({"storage": masked(url), "study": _new_study(storage, folder.name)}) + "\n")
        temporary.rename(file)
    name = str(json.loads(file.read_text())["study"])
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        raise ValueError(
            f"--storage: {masked(url)} has no study {name}, which {file} names: give the storage that it was begun in."
        ) from None
    return storage, name


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Say in a line what kept a study from being written, wherever in Ray Tune or Optuna that came to light.

    Raises:
        OSError: If a disk is full.
        TrainingError: If a database failed for another reason.
    """
    try:
        yield
    except Exception as error:
        # Tune hands on no error but its own; what it was is the one that it was handling.
        chain: list[BaseException] = [error]
        while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(before)
        if any(is_disk_full(one) or SQLITE_IS_FULL in str(one) for one in chain):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, for the study or its trials") from error
        if any(isinstance(one, optuna.exceptions.StorageInternalError) for one in chain):
            driver = next((one for one in chain if isinstance(one, sqlalchemy.exc.SQLAlchemyError)), error)
            cause = getattr(driver, "orig", driver)
            raise TrainingError(f"the study cannot be written ({reason(cause).rstrip('.')}).") from error
        raise


def _new_study(storage: BaseStorage, wanted: str) -> str:
    for name in (wanted, *(f"{wanted}-{i}" for i in range(2, 1000))):
        try:
            return optuna.create_study(storage=storage, study_name=name, direction="maximize").study_name
        except optuna.exceptions.DuplicatedStudyError:
            continue
    raise ValueError(f"--storage: it has 999 studies of the name {wanted} already.")


def _open(url: str) -> BaseStorage:
    for name in re.findall(r"\$\{?(\w+)", url):
        if name not in os.environ:
            # In a password that is spelled out, the name would be a part of it.
            shown = f"${name}" if name in masked(url) else "a variable in its password"
            raise ValueError(
                f"--storage: {masked(url)} names {shown}, and the environment has no such variable. Set it; a $ that is"
                " none of a variable is written %24."
            )
    full = os.path.expandvars(url)
    if full.startswith(JOURNAL):
        return _open_journal(Path(full.removeprefix(JOURNAL)))
    try:
        parsed = make_url(full)
    except sqlalchemy.exc.ArgumentError:
        raise ValueError(
            f"--storage: {masked(url)!r} is no URL of a database. Expected sqlite:///FILE, postgresql://USER@HOST/NAME,"
            f" mysql://USER@HOST/NAME or {JOURNAL}FILE."
        ) from None
    if "@" in (parsed.host or ""):
        raise ValueError(
            f"--storage: {masked(url)} has an @ in its user or password. Write it as %40, also in a variable that holds"
            " it."
        )
    is_file = parsed.get_backend_name() == "sqlite"
    options = {"timeout": LOCK_SECONDS} if is_file else {"connect_timeout": CONNECT_SECONDS}
    try:
        return RDBStorage(full, engine_kwargs={"connect_args": options})
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        package = DRIVERS.get(parsed.get_driver_name()) if isinstance(error, ImportError) else None
        hint = f" Install it: pip install {package}." if package else ""
        raise ValueError(
            f"--storage: {masked(url)} needs a driver that is not installed ({reason(error).rstrip('.')}).{hint}"
        ) from None
    except Exception as error:  # of a dozen kinds, by driver
        cause = getattr(error, "orig", None) or error.__cause__ or error
        text = reason(cause if isinstance(cause, Exception) else error)
        for password in sorted({*passwords(full), str(parsed.password or "")} - {""}, key=len, reverse=True):
            text = text.replace(password, "***")
        raise ValueError(f"--storage: {masked(url)} cannot be used ({text}).") from None


def _open_journal(file: Path) -> BaseStorage:
    try:
        return JournalStorage(JournalFileBackend(str(file)))
    except OSError as error:
        raise ValueError(f"--storage: {JOURNAL}{file} cannot be used ({reason(error)}).") from None
