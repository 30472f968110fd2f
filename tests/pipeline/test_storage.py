import pyarrow as pa
import pytest

from pipeline.data.storage import Folder, locate


@pytest.fixture(params=["path", "file", "memory", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        return locate(request.getfixturevalue("s3_url"))
    names = {"path": tmp_path / "a", "file": f"file://{tmp_path}/a", "memory": f"memory://{tmp_path}"}
    return locate(names[request.param])


def test_what_was_written_is_there_and_nothing_else(folder):
    assert folder.sizes() == {}
    folder.check_writable()
    folder.write("one", b"12345")
    folder.write("two", pa.py_buffer(b"123"))
    folder.write("one", b"1234")
    assert folder.sizes() == {"one": 4, "two": 3}
    assert folder.read("one") == b"1234"
    with folder.open("two") as stream:
        stream.seek(1)
        assert stream.read() == b"23"
    folder.delete("one")
    folder.delete("one")
    assert folder.sizes() == {"two": 3}
    with pytest.raises(FileNotFoundError):
        folder.read("one")


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    folder = locate(tmp_path)
    folder.write("one", b"before")
    put = Folder._put

    def put_half(self, file, data):
        put(self, file, data[:2])
        raise OSError("disk full")

    monkeypatch.setattr(Folder, "_put", put_half)
    with pytest.raises(OSError, match="disk full"):
        folder.write("one", b"after")
    assert folder.sizes() == {"one": 6}
    assert folder.read("one") == b"before"


def test_a_bucket_that_does_not_exist_is_an_error_before_the_work(s3_url):
    folder = locate(s3_url.replace("s3://bucket/", "s3://no-such-bucket/"))
    with pytest.raises(OSError, match="no-such-bucket"):
        folder.check_writable()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, not a folder"):
        locate(tmp_path / "file").sizes()


@pytest.mark.parametrize("url", ["nonsense://a/b", "s3://", "hdfs://nowhere/a"])
def test_a_url_that_names_no_place_is_named(url):
    with pytest.raises(ValueError, match=url) as error:
        locate(url)
    assert "\n" not in str(error.value)


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="environment") as error:
        locate("s3://key:hush@bucket/folder")
    assert "hush" not in str(error.value)


def test_the_path_of_a_file_is_shown_with_the_query_of_its_url(tmp_path, s3_url):
    assert locate(tmp_path).shown("x.json") == f"{tmp_path}/x.json"
    start, query = s3_url.split("?")
    assert locate(s3_url).shown("x.json") == f"{start}/x.json?{query}"
