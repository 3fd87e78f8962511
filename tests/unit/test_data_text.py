"""Text datasets: what is read, what is held out, what is refused; bytes and byte pairs."""

import hashlib
import os
from functools import cache

import numpy as np
import pytest
from data_cases import SOURCE_CODE, config_of, same, task_of, text_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_exp.config.build import ConfigError
from mhc_exp.data import make_task, source_code
from mhc_exp.data.documents import Document, choose_held_out, cut_tail
from mhc_exp.data.tokenizers import BytePairs, Bytes

UNICODE = "Grüße, мир! 数学は楽しい 🎓🚀 e\u0301\r\n\tdone — \x7f\n" * 200


def test_a_single_file_is_cut_at_a_line_break_near_the_wanted_share(tmp_path):
    lines = [f"this is line {i}\n" for i in range(1000)]
    (tmp_path / "a.txt").write_text("".join(lines))
    parts = task_of(text_dataset(tmp_path / "a.txt", percent=10)).parts  # type: ignore[attr-defined]
    text = (tmp_path / "a.txt").read_bytes()
    assert parts.training + parts.held_out == text
    assert parts.training.endswith(b"\n")
    assert 0.09 < len(parts.held_out) / len(text) < 0.101
    assert parts.identity["sha256"] == hashlib.sha256(text).hexdigest()


@given(text=st.text(min_size=1, max_size=300), percent=st.floats(0.1, 50))
def test_the_tail_is_never_cut_inside_a_character(text, percent):
    training, held_out = cut_tail(text.encode(), percent)
    assert training.decode() + held_out.decode() == text


def test_a_directory_reads_text_files_in_subfolders_and_leaves_out_the_rest(tmp_path):
    for number in range(10):
        (tmp_path / f"folder{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"folder{number % 3}" / f"{number}.txt").write_text(f"text {number} " * 200)
    (tmp_path / "image.bin").write_bytes(b"\x89PNG\0\0" * 100)
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_text("secret " * 500)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "objects.txt").write_text("secret " * 500)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    task = task_of(text_dataset(tmp_path), seq_len=16)
    parts = task.parts  # type: ignore[attr-defined]
    both = parts.training + b"\n" + parts.held_out
    assert all(f"text {number} text".encode() in both for number in range(10))
    assert b"PNG" not in both
    assert b"secret" not in both
    assert task.identity()["documents"] == 10
    assert task.identity()["files_left_out"] == 2


def test_the_same_directory_elsewhere_is_the_same_dataset(tmp_path):
    for copy in ("here", "there"):
        (tmp_path / copy / "data").mkdir(parents=True)
        for number in sorted(range(12), reverse=copy == "there"):
            (tmp_path / copy / "data" / f"{number}.md").write_text(f"{number} " * 300)
    here, there = (task_of(text_dataset(tmp_path / copy / "data")) for copy in ("here", "there"))
    assert here.identity() == there.identity()
    assert same(here.batch(0, 8), there.batch(0, 8))


@given(sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=60), percent=st.floats(0.1, 50))
def test_held_out_share_is_near_the_wanted_one_if_documents_are_small(sizes, percent):
    documents = [Document(f"{number}.txt", bytes(size)) for number, size in enumerate(sizes)]
    held_out = choose_held_out(documents, percent)
    share = sum(len(d.text) for d in documents if d.name in held_out)
    wanted = sum(sizes) * percent / 100
    assert 0 < share < sum(sizes) or min(sizes) == sum(sizes)
    assert abs(share - wanted) <= max(sizes)
    assert held_out == choose_held_out(documents[::-1], percent)


def test_documents_of_one_name_stay_together():
    documents = [Document("twin", b"x" * 30), Document("other", b"y" * 30), Document("twin", b"x" * 30)]
    for percent in (1, 20, 40, 50):
        held_out = choose_held_out(documents, percent)
        assert held_out in ({"twin"}, {"other"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "does not exist"),
        (lambda folder: "", "is empty; type dataset.path=FILE_OR_DIRECTORY"),
        (lambda folder: folder / ("x" * 300), "does not exist"),
        (lambda folder: write(folder / "empty.txt", b""), "is empty"),
        (
            lambda folder: write(folder / "short.txt", b"too short\n" * 5),
            "training part has .* tokens, which is 0 windows",
        ),
        (lambda folder: write(folder / "medium.txt", b"long enough\n" * 40), "held-out part has .* two are needed"),
        (lambda folder: write(folder / "sub" / "a.bin", b"\0" * 999).parent, "all empty or binary"),
        (lambda folder: pipe(folder / "pipe"), "neither a file nor a directory"),
    ],
)
def test_unusable_text_is_refused_with_a_reason(tmp_path, make, message):
    with pytest.raises(ConfigError, match=rf"dataset\.path: .*{message}"):
        make_task(config_of(text_dataset(make(tmp_path))))


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def pipe(path):
    os.mkfifo(path)
    return path


def test_bytes_decode_to_the_text_they_came_from(tmp_path):
    (tmp_path / "a.txt").write_bytes(UNICODE.encode())
    task = task_of(text_dataset(tmp_path / "a.txt"))
    tokens = np.frombuffer(UNICODE.encode(), np.uint8)
    assert task.decode(tokens.astype(np.int32)) == UNICODE
    assert task.decode(np.array([0xFF, 65])) == "\ufffdA"
    assert task.bytes_per_token == 1.0
    assert task.floor is None
    assert task.chance == pytest.approx(np.log(256))


@pytest.mark.parametrize("text", [UNICODE, "\n\n  x\n" * 400, "no line break " * 300, "a"])
def test_byte_pairs_give_back_exactly_the_text(text):
    tokenizer = BytePairs(UNICODE.encode(), 400)
    tokens = tokenizer.encode(text.encode())
    assert tokenizer.decode(tokens) == text
    assert tokens.max() < tokenizer.vocab_size


@cache
def small_tokenizer():
    return BytePairs(UNICODE.encode(), 300)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=200))
def test_byte_pairs_can_write_any_text(text):
    tokenizer = small_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text.encode())) == text


def test_byte_pairs_of_long_text_are_encoded_in_pieces_without_a_seam(monkeypatch):
    tokenizer = BytePairs(UNICODE.encode(), 400)
    whole = tokenizer.encode(UNICODE.encode())
    monkeypatch.setattr("mhc_exp.data.tokenizers._PIECE", 37)  # shorter than a line: cut between characters
    assert tokenizer.decode(tokenizer.encode(UNICODE.encode())) == UNICODE
    monkeypatch.setattr("mhc_exp.data.tokenizers._PIECE", 1000)
    assert abs(len(tokenizer.encode(UNICODE.encode())) - len(whole)) < 0.02 * len(whole)


def test_training_byte_pairs_again_gives_the_same_tokenizer(tmp_path):
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "seven", "wizards", "mix"]
    choice = np.random.default_rng(0)
    (tmp_path / "a.txt").write_text("\n".join(" ".join(choice.choice(words, 12)) for _ in range(3000)))
    one, two = (task_of(text_dataset(tmp_path / "a.txt", "bpe", 350)) for _ in range(2))
    assert one.identity() == two.identity()
    assert one.files() == two.files()  # type: ignore[attr-defined]
    digest = hashlib.sha256(one.files()["tokenizer.json"].encode()).hexdigest()  # type: ignore[attr-defined]
    assert one.identity()["tokenizer_sha256"] == digest
    assert 257 < one.vocab_size <= 350


def test_bytes_per_token_counts_the_held_out_bytes_exactly(tmp_path):
    (tmp_path / "a.txt").write_text("one two three four five six seven\n" * 500)
    task = task_of(text_dataset(tmp_path / "a.txt", "bpe", 300))
    held_out = task.parts.held_out  # type: ignore[attr-defined]
    tokens = task.tokenizer.encode(held_out)  # type: ignore[attr-defined]
    assert task.bytes_per_token == len(held_out) / len(tokens)
    assert task.bytes_per_token > 1.5
    assert task.decode(tokens).encode() == held_out  # type: ignore[union-attr]


def test_byte_pairs_learn_nothing_from_held_out_text(tmp_path):
    text = "common words again and again\n" * 900
    (tmp_path / "a.txt").write_text(text + "zyzzyva " * 300)
    tokenizer = task_of(text_dataset(tmp_path / "a.txt", "bpe", 320, percent=10)).files()  # type: ignore[attr-defined]
    assert "common" in tokenizer["tokenizer.json"]
    assert "zyz" not in tokenizer["tokenizer.json"]


def test_byte_pairs_refuse_text_that_is_not_utf8(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"plain\n" * 500 + b"caf\xe9\n" * 500)
    with pytest.raises(ConfigError, match=r"byte 3,003 of the text is not; type dataset\.tokenizer=bytes"):
        make_task(config_of(text_dataset(tmp_path / "latin.txt", "bpe")))
    assert task_of(text_dataset(tmp_path / "latin.txt")).vocab_size == 256


def test_a_missing_tokenizers_package_gives_the_line_to_type(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'mhc-exp\[bpe\]'"):
        BytePairs(b"text", 300)


def test_bytes_tokenizer_does_not_copy_its_text():
    text = bytes(1000)
    assert np.shares_memory(Bytes().encode(text), np.frombuffer(text, np.uint8))


def test_source_code_is_sympy_without_importing_it():
    import subprocess
    import sys

    program = (
        "import sys; from mhc_exp.data import source_code as s; parts = s.parts_of(s.sympy_root());"
        "print(parts.identity['sha256'] == s.SHA256, parts.identity['documents'], 'sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1532", "False"]


def test_source_code_holds_out_one_file_in_twenty():
    task = task_of(SOURCE_CODE)
    record = task.identity()
    assert record["source"] == "sympy 1.14.0"
    assert "note" not in record
    assert record["training_tokens"] + record["held_out_tokens"] == record["bytes"] + 1532 - 2  # line breaks between
    assert 0.03 < record["held_out_bytes"] / record["bytes"] < 0.07
    text = task.decode(task.validation(1, 1)[0].inputs[0])
    assert text is not None
    assert text.isprintable() or "\n" in text


def test_another_sympy_is_another_dataset_and_says_so(tmp_path):
    for number in range(30):
        (tmp_path / f"module{number}.py").write_text(f"x = {number}\n" * 50)
    (tmp_path / "data.txt").write_text("not python")
    parts = source_code.parts_of(tmp_path)
    assert parts.identity["documents"] == 30
    assert parts.identity["sha256"] != source_code.SHA256
    assert "pip install sympy==1.14.0" in parts.identity["note"]


def test_missing_sympy_gives_the_line_to_type(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install sympy==1\.14\.0"):
        make_task(config_of(SOURCE_CODE))
