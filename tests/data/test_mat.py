"""The reader of MATLAB files, against scipy's, and on files that are not as they should be."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from pixcon_core.data.mat import read_label_mat

WHOLE = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
LABEL = np.arange(48, dtype=np.uint8).reshape(6, 8)


def written(*, compressed=False, **variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    """Read a matrix out of a file of these bytes."""

    def read(data, key="S"):
        (tmp_path / "a.mat").write_bytes(data)
        return read_label_mat(tmp_path / "a.mat", key)

    return read


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shape", [(6, 8), (1, 1), (1, 3), (300, 5), (0, 0), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", WHOLE)
def test_a_matrix_of_whole_numbers_is_read_as_scipy_reads_it(read, dtype, shape, compressed):
    matrix = np.random.default_rng(0).integers(100, size=shape).astype(dtype)
    data = written(S=matrix, compressed=compressed)
    found = read(data)
    assert found.dtype.kind in "ui"
    assert found.shape == shape
    np.testing.assert_array_equal(found, scipy.io.loadmat(io.BytesIO(data))["S"])


@pytest.mark.parametrize("compressed", [False, True])
def test_a_matrix_is_found_among_variables_of_all_kinds(read, compressed):
    names = np.array([["sky", "road"]], dtype=object)
    data = written(
        names=names,
        region={"a": 1},
        note="a text",
        Sx=np.eye(3),
        eye=scipy.sparse.eye(3),
        S=LABEL,
        compressed=compressed,
    )
    np.testing.assert_array_equal(read(data), LABEL)
    np.testing.assert_array_equal(read(data, "Sx"), np.eye(3))


def test_a_file_of_a_machine_of_the_other_order_of_bytes_is_read(read):
    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    flags, sizes = struct.pack(">II", 11, 0), struct.pack(">ii", 2, 3)
    numbers = np.array([[1, 2, 300], [4, 5, 600]], ">u2").tobytes(order="F")
    body = element(6, flags) + element(5, sizes) + struct.pack(">HH", 1, 1) + b"S\0\0\0" + element(4, numbers)
    data = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI" + element(14, body)
    assert read(data).tolist() == [[1, 2, 300], [4, 5, 600]]
    assert scipy.io.loadmat(io.BytesIO(data))["S"].tolist() == [[1, 2, 300], [4, 5, 600]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.full((6, 8), 0.5), "its 'S' must be a matrix of whole numbers, but has fractions"),
        (np.array([[1.0, np.nan]]), "its 'S' must be a matrix of whole numbers, but has fractions"),
        (np.array([[1.0, np.inf]]), "its 'S' must be a matrix of whole numbers, but has fractions"),
        (np.array([[1e300]]), "its 'S' must be a matrix of whole numbers, but has fractions"),
        (np.full((6, 8), 1j), "but is of class 6 and size (6, 8)"),
        (np.zeros((6, 8, 2), np.uint8), "but is of class 9 and size (6, 8, 2)"),
        ("a text", "but is of class 4 and size (1, 6)"),
        ({"a": 1}, "but is of class 2 and size (1, 1)"),
        (np.array([["a", 3]], dtype=object), "but is of class 1 and size (1, 2)"),
        (scipy.sparse.csc_matrix(np.eye(6)), "but is of class 5 and size (6, 6)"),
    ],
    ids=["half", "nan", "inf", "huge", "complex", "3-D", "text", "struct", "cell", "sparse"],
)
def test_what_is_no_matrix_of_whole_numbers_is_refused(read, value, reason):
    with pytest.raises(ValueError, match="must be a matrix of whole numbers") as error:
        read(written(S=value))
    assert reason in str(error.value)


def test_a_matrix_of_another_name_is_not_taken(read):
    with pytest.raises(ValueError, match=r"^it has no matrix 'S'$"):
        read(written(s=LABEL, SS=LABEL, T=LABEL))


@pytest.mark.parametrize(
    "data",
    [b"", b"404: Not Found\n", bytes(200), b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400)],
    ids=["empty", "text", "zeros", "version-7.3"],
)
def test_what_is_no_matlab_file_is_refused(read, data):
    with pytest.raises(ValueError, match=r"^it is not a MATLAB file of version 5 to 7$"):
        read(data)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_short_anywhere_is_refused(read, compressed):
    data = written(S=LABEL, compressed=compressed)
    assert read(data).shape == (6, 8)
    for length in range(129, len(data)):
        with pytest.raises(ValueError, match="it is damaged: "):
            read(data[:length])


def test_a_flipped_bit_in_any_byte_of_compressed_data_is_refused_or_changes_nothing(read):
    data = written(S=LABEL, compressed=True)
    for place in range(136, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            found = read(bytes(damaged))
        except ValueError:
            continue
        np.testing.assert_array_equal(found, LABEL)


def test_a_compressed_nothing_is_refused(read):
    empty = zlib.compress(b"")
    data = written(S=LABEL)[:128] + struct.pack("<II", 15, len(empty)) + empty
    with pytest.raises(ValueError, match=r"^it is damaged: it ends too soon$"):
        read(data)
