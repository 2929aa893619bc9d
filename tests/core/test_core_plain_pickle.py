"""Plain data out of pickles of every protocol; everything else is refused by name and nothing of it runs."""

import collections
import io
import os
import pickle
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepir.errors import InputError
from deepir.plain_pickle import read_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
# protocol 0 writes 1 and True as text, 2 and up as opcodes; a long, a negative and a unicode string each take others
PLAIN: dict[str, Any] = {
    "numbers": [0, 1, -1, 255, 70_000, -(2**31), 2**40, 2**70, -(2**2100), True, False, None, 0.5, -1e300],
    "text": ["", "a", "ünï", "x" * 300, "line\nbreak", "\u4e2d"],
    "bytes": [b"", b"ab", bytes(range(256)), b"x" * 300],
    "nested": {"list": [[], [1], [1, 2, 3, 4]], 7: ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), None: {"x": {}}},
    "sets": [set(), {1, 2, "a"}, frozenset({1.5, b"x"}), frozenset()],
}
ARRAYS = [np.arange(12, dtype=kind).reshape(3, 4) for kind in ("u1", "<i4", ">i4", "i8", "<f2", "f4", "f8")] + [
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.array(["a", "ünï"]),
    np.array([b"a", b"bc"]),
    np.empty((0, 5), np.float32),
    np.array(3.5),
    np.arange(24).reshape(2, 3, 4)[:, ::2],
]


def read(content: bytes, folder: Path) -> Any:
    (folder / "gnd_toy.pkl").write_bytes(content)
    return read_plain_pickle(folder / "gnd_toy.pkl")


class Calls:
    """What unpickles by calling a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_is_read_as_it_was_written(name: str, protocol: int, tmp_path: Path) -> None:
    assert read(pickle.dumps(PLAIN[name], protocol), tmp_path) == PLAIN[name]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_arrays_are_read_as_they_were_written(array: np.ndarray, protocol: int, tmp_path: Path) -> None:
    found = read(pickle.dumps({"rows": array, "again": [array, array]}, protocol), tmp_path)
    np.testing.assert_array_equal(found["rows"], array)
    assert (found["rows"].dtype, found["rows"].shape) == (array.dtype, array.shape)
    assert found["again"][0] is found["rows"] is found["again"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_are_read_as_they_were_written(protocol: int, tmp_path: Path) -> None:
    scalars = [np.float64(0.5), np.int32(-7), np.uint8(200), np.bool_(True), np.str_("ab"), np.float32(1e-3)]
    found = read(pickle.dumps(scalars, protocol), tmp_path)
    assert found == scalars
    assert [type(value) for value in found] == [type(value) for value in scalars]


@pytest.mark.parametrize("name", ["numpy.core", "numpy._core"])
def test_both_names_of_numpys_core_are_known(name: str, tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(3), 2)
    other = content.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", f"{name}.".encode())
    np.testing.assert_array_equal(read(other, tmp_path), np.arange(3))


def test_an_array_that_python_2_wrote_is_read(tmp_path: Path) -> None:
    # its bytes are what Python 3 takes for text
    raw = np.array([-2, 300], "<i4").tobytes()
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tb."
    )
    np.testing.assert_array_equal(read(content, tmp_path), [-2, 300])


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(plain_data, st.sampled_from(PROTOCOLS))
def test_any_plain_data_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, content: Any, protocol: int
) -> None:
    assert read(pickle.dumps(content, protocol), tmp_path_factory.getbasetemp()) == content


def test_a_list_that_holds_itself_is_read(tmp_path: Path) -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    found = read(pickle.dumps(endless), tmp_path)
    assert found[1] is found


FOREIGN = {
    "a command": (Calls(os.system, "touch RAN"), "posix.system"),
    "an expression": (Calls(eval, "open('RAN', 'w')"), "eval"),
    "a statement": (Calls(exec, "open('RAN', 'w')"), "exec"),
    "an attribute": (Calls(getattr, "", "join"), "getattr"),
    "a chain of attributes": (Calls(getattr, Calls(getattr, "", "join"), "__self__"), "getattr"),
    "a call after plain data": ([1, {"gnd": Calls(os.system, "touch RAN")}], "posix.system"),
    "a file": (Calls(open, "RAN", "w"), "io.open"),
    "an import": (Calls(__import__, "os"), "__import__"),
    "a numpy file": (Calls(np.save, "RAN", [1]), "numpy.save"),
    "a class": (collections.OrderedDict(), "collections.OrderedDict"),
    "an instance": (Calls(object), "object"),
    "an array of objects": (np.array([{}], dtype=object), "numpy arrays of type 'O8'"),
    "records": (np.zeros(1, [("x", "f4")]), "numpy arrays of type 'V4'"),
    "dates": (np.array(["2024-01-01"], "M8[D]"), "numpy arrays of type 'M8'"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_plain_is_refused_by_its_name_and_does_not_run(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, asked = FOREIGN[name]
    with pytest.raises(InputError, match=r"gnd_toy.pkl asks for .*: from a pickle only plain data") as refusal:
        read(pickle.dumps(content, protocol), tmp_path)
    assert "\n" not in str(refusal.value)
    assert asked in str(refusal.value) or "copyreg" in str(refusal.value) or "copy_reg" in str(refusal.value)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"cos\nsystem\n(S'touch RAN'\ntR.", "os.system"),
        (b"(S'touch RAN'\nios\nsystem\n.", "the operation INST os system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch RAN\x85R.", "os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93\x8c\x09touch RAN\x85R.", "numpy.f2py.os.system"),
        (b"\x80\x02c__builtin__\neval\n(U\x011tR.", "__builtin__.eval"),
        (b"(c__builtin__\nset\no.", "the operation OBJ"),
        (b"\x80\x02c__builtin__\nset\n)\x81.", "the operation NEWOBJ"),
        (b"\x80\x02\x82\x01.", "the operation EXT1"),
        (b"P1234\n.", "the operation PERSID"),
        (b"]2.", "the operation DUP"),
        (b"\x80\x04\x8c\x04o\ns \x8c\x06system\x93.", r"asks for o s .system:"),
        (b"cnumpy.core.multiarray\nfrombuffer\n.", "numpy.core.multiarray.frombuffer"),
        (b"c" + b"x" * 5000 + b"\nsystem\n.", "asks for x{120}:"),
    ],
)
def test_handmade_pickles_are_refused_by_what_they_ask_for(
    content: bytes, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=asked):
        read(content, tmp_path)
    assert not (tmp_path / "RAN").exists()


# float64, at place 0 of the memo; an array of it whose state is still to come; 2 ** 44
DTYPE = (
    b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87R"
    b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x00"
)
BLANK = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x10"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x04", id="no end"),
        pytest.param(b".", id="nothing"),
        pytest.param(b"NN.", id="two things"),
        pytest.param(b"what is this?", id="words"),
        pytest.param(b"\x80\xff.", id="another protocol"),
        pytest.param(b"R.", id="a call of nothing"),
        pytest.param(b"NNR.", id="a call of None"),
        pytest.param(b"cnumpy\ndtype\nNR.", id="a call with None"),
        pytest.param(b"cnumpy\ndtype\n)R.", id="a dtype of nothing"),
        pytest.param(b"cnumpy\ndtype\n(](K\x00tR.", id="an open mark"),
        pytest.param(
            b"cnumpy\ndtype\n(X\x03\x00\x00\x00f99tR(K\x03X\x01\x00\x00\x00<tb.", id="a dtype unknown to numpy"
        ),
        pytest.param(b"cnumpy\nndarray\n)R.", id="a call of ndarray"),
        pytest.param(b"c__builtin__\nset\n(K\x05tR.", id="a set of a number"),
        pytest.param(b"c__builtin__\nbytes\n(J\xff\xff\xff\x7ftR.", id="two gigabytes of zeros"),
        pytest.param(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", id="another encoding"),
        pytest.param(b"c_codecs\nencode\n(K\x05X\x06\x00\x00\x00latin1tR.", id="a number encoded"),
        pytest.param(b"cnumpy.core.multiarray\n_reconstruct\n(NK\x00NtR.", id="an array of no class"),
        pytest.param(DTYPE + BLANK + b"(K\x01NN\x89C\x00tb\x86.", id="no shape"),
        pytest.param(DTYPE + BLANK + b"(K\x01K\x01\x85N\x89C\x08" + bytes(8) + b"tb\x86.", id="no dtype"),
        pytest.param(DTYPE + BLANK + b"Nb\x86.", id="no state"),
        pytest.param(DTYPE + BLANK + b"]b\x86.", id="another state"),
        pytest.param(b"]}b.", id="a state for a list"),
        pytest.param(b"c__builtin__\nset\n}b.", id="a state for a function"),
        pytest.param(b"]N}s.", id="an item set in None"),
        pytest.param(b"NNa.", id="append to None"),
        pytest.param(b"(NNNd.", id="a key without a value"),
        pytest.param(b"}]Ns.", id="a list as a key"),
        pytest.param(b"})Ns.", id="a tuple as a key"),
        pytest.param(b"(" * 1000 + b".", id="marks"),
        pytest.param(b"t.", id="a tuple without a mark"),
        pytest.param(b"h\x05.", id="a memo never made"),
        pytest.param(b"I12x\n.", id="a number with a letter"),
        pytest.param(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", id="exabytes of bytes"),
        pytest.param(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", id="exabytes of text"),
        pytest.param(b"\x8b\xff\xff\xff\x7f.", id="gigabytes of a number"),
        pytest.param(b"X\x01\x00\x00\x00\xff.", id="text that is none"),
    ],
)
def test_a_damaged_pickle_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"gnd_toy.pkl \({len(content)} bytes\) is truncated or not a pickle"
    ) as refusal:
        read(content, tmp_path)
    assert len(str(refusal.value)) < 300 + len(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_every_truncation_of_a_pickle_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"imlist": ["a", "b"], "rows": np.arange(3), "box": (1.5, None)}, 2)
    for length in range(len(content)):
        with pytest.raises(InputError, match="gnd_toy"):
            read(content[:length], tmp_path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(st.binary(max_size=40), st.integers(0, 200))
def test_a_pickle_with_foreign_bytes_in_it_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    content = pickle.dumps({"rows": np.arange(3), "gnd": [{"ok": [1, 2], "bbx": (0.5, 1.5)}]}, 2)
    with suppress(InputError):
        read(content[:place] + noise + content[place + len(noise) :], tmp_path_factory.getbasetemp())


def most_memory(content: bytes, folder: Path) -> int:
    tracemalloc.start()
    with suppress(InputError):
        read(content, folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


BIG = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000
TENFOLD = [b"](" + (b"h" + bytes([n])) * 10 + b"eq" + bytes([n + 1]) for n in range(200)]
BOMBS = {
    "a huge array": DTYPE + BLANK + b"(K\x01" + HUGE + b"\x85h\x00\x89C\x08" + bytes(8) + b"tb\x86.",
    "a far place in the memo": b"Nr\xff\xff\xff\x7f.",
    "text encoded again and again": b"("
    + BIG
    + b"q\x01"
    + b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R" * 900
    + b"t.",
    "a list made a set again and again": b"(]("
    + b"".join(b"M" + struct.pack("<H", n) for n in range(20_000))
    + b"eq\x01"
    + b"c__builtin__\nset\nh\x01\x85R" * 900
    + b"t.",
    "text as the bytes of arrays": b"("
    + DTYPE
    + b"X\x80\x00\x01\x00"
    + b"x" * 65_664
    + b"q\x01"
    + (BLANK + b"(K\x01M\x10\x20\x85h\x00\x89h\x01tb") * 900
    + b"t.",
    "lists of lists of lists": b"(]q\x00" + b"".join(TENFOLD) + b"t.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_never_takes_much_memory(name: str, tmp_path: Path) -> None:
    assert most_memory(BOMBS[name], tmp_path) < 250 * len(BOMBS[name]) + (1 << 20)


def test_deep_nesting_is_read_without_recursion(tmp_path: Path) -> None:
    found = read(b"]" * 100_000 + b"a" * 99_999 + b".", tmp_path)
    assert isinstance(found[0][0], list)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*absent.pkl: No such file"):
        read_plain_pickle(tmp_path / "absent.pkl")


def test_a_file_of_more_than_ground_truth_can_have_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large.pkl").open("wb") as stream:
        stream.truncate(1 << 33)
    with pytest.raises(
        InputError, match=r"large.pkl has 8589934592 bytes: a file of ground truth has at most 16777216"
    ):
        read_plain_pickle(tmp_path / "large.pkl")


def test_the_handmade_array_is_read_when_its_shape_is_honest(tmp_path: Path) -> None:
    content = DTYPE + BLANK + b"(K\x01K\x01\x85h\x00\x89C\x08" + np.float64(0.25).tobytes() + b"tb\x86."
    assert read(content, tmp_path) == pickle.Unpickler(io.BytesIO(content)).load() == (np.dtype("f8"), [0.25])


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (b"K\x02\x85", r"shape \(2,\) and type float64 needs 16 bytes, got 8"),
        (HUGE + b"\x85", r"shape \(17592186044416,\) and type float64 needs 140737488355328 bytes, got 8"),
        (b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", r"shape \(-1, -1\) and type float64 needs 8 bytes, got 8"),
        (b"]\x85", "a list stands where a int should"),
        (b"K\x01", "a int stands where a tuple should"),
    ],
)
def test_an_array_whose_shape_and_bytes_disagree_is_refused_with_both(
    shape: bytes, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        read(DTYPE + BLANK + b"(K\x01" + shape + b"h\x00\x89C\x08" + bytes(8) + b"tb\x86.", tmp_path)


DEEP = b"]" * 50_000 + b"a" * 49_999


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\ndtype\n(" + DEEP + b"K\x00K\x01tR.",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR(K\x03" + DEEP + b"tb.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00a" + DEEP + b"tR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(" + DEEP + b"tR.",
        DTYPE + b"cnumpy.core.numeric\n_frombuffer\n(C\x00h\x00)X\x01\x00\x00\x00C" + DEEP + b"tR\x86.",
        b"}" + DEEP + b"Ns.",
        DEEP + b")R.",
    ],
)
def test_deep_nesting_where_it_does_not_belong_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truncated or not a pickle"):
        read(content, tmp_path)


def test_an_array_of_numbers_that_are_no_characters_is_refused(tmp_path: Path) -> None:
    honest = pickle.dumps(np.array(["ab"]), 4)
    assert read(honest, tmp_path) == ["ab"]
    with pytest.raises(InputError, match="numbers that are no characters"):
        read(honest.replace("b".encode("utf-32-le"), struct.pack("<I", 0x110000)), tmp_path)


def test_an_array_whose_axes_are_in_another_order_is_refused_rather_than_misread(tmp_path: Path) -> None:
    start = DTYPE + b"cnumpy.core.numeric\n_frombuffer\n(C\x08" + bytes(8) + b"h\x00K\x01\x85X\x01\x00\x00\x00K"
    assert read(start + b"NtR\x86.", tmp_path)[1] == [0]
    with pytest.raises(InputError, match="an array of bytes in an order of axes that is not read"):
        read(start + b"K\x00\x85tR\x86.", tmp_path)
