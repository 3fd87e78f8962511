"""Token files are read as they are meant, and damaged or foreign ones are refused before training."""

import numpy as np
import pytest
from data_cases import config_of, write_tokens

from mhc_exp.config import schema
from mhc_exp.config.build import ConfigError
from mhc_exp.data import make_task


def dataset(train, validation, vocab_size=1000, bytes_per_token=None):
    return schema.Tokens("tokens", str(train), str(validation), vocab_size, bytes_per_token)


def headerless(path, tokens):
    path.write_bytes(np.asarray(tokens, "<u2").tobytes())
    return path


@pytest.fixture
def held_out(tmp_path):
    return write_tokens(tmp_path / "held_out.bin", np.arange(500))


@pytest.mark.parametrize(
    ("layout", "arguments"),
    [
        ("gpt-2", {}),
        ("llama-3", {"magic": 20240801, "version": 7, "dtype": "<u4"}),
        ("llama-3 of llm.c's first version", {"magic": 20240801, "version": 1, "dtype": "<u4"}),
        ("nanoGPT", None),
    ],
)
def test_every_layout_gives_back_the_tokens_that_were_written(tmp_path, held_out, layout, arguments):
    path = tmp_path / "train.bin"
    tokens = np.arange(641) % 1000
    headerless(path, tokens) if arguments is None else write_tokens(path, tokens, **arguments)
    task = make_task(config_of(dataset(path, held_out, bytes_per_token=4.2)))
    rows = np.concatenate([task.batch(step, 5).inputs for step in range(2)])
    assert np.array_equal(rows[np.argsort(rows[:, 0])].ravel(), np.arange(640))
    assert np.array_equal(task.validation(1, 1)[0].inputs[0], np.arange(64))
    assert task.bytes_per_token == 4.2
    assert task.chance == pytest.approx(np.log(1000))
    assert task.decode(rows[0]) is None


def test_shards_of_a_pattern_are_read_in_order_of_their_names(tmp_path, held_out):
    for number in (2, 0, 1):
        write_tokens(tmp_path / f"train_{number}.bin", 200 * number + np.arange(200))
    task = make_task(config_of(dataset(tmp_path / "train_*.bin", held_out)))
    record = task.identity()
    assert record["training_files"] == ["train_0.bin", "train_1.bin", "train_2.bin"]
    assert record["training_tokens"] == 600
    firsts = sorted(task.batch(0, 9).inputs[:, 0].tolist())
    assert firsts == [0, 64, 128, 200, 264, 328, 400, 464, 528]


def test_identity_changes_with_the_content(tmp_path, held_out):
    a, b = (write_tokens(tmp_path / name, np.arange(300) + shift) for name, shift in (("a.bin", 0), ("b.bin", 1)))
    records = [make_task(config_of(dataset(path, held_out))).identity() for path in (a, b)]
    assert records[0]["training_sha256"] != records[1]["training_sha256"]
    assert records[0]["held_out_sha256"] == records[1]["held_out_sha256"]


def test_large_files_are_hashed_and_checked_by_sample(tmp_path, held_out, monkeypatch):
    monkeypatch.setattr("mhc_exp.data.tokens._FULLY_READ", 1000)
    path = write_tokens(tmp_path / "train.bin", np.arange(2000) % 1000)
    record = make_task(config_of(dataset(path, held_out))).identity()
    assert "training_sha256_of_a_sample" in record
    assert "held_out_sha256" in record


HOSTILE = {
    "magic of an evaluation file": (
        lambda p: write_tokens(p, np.arange(300), magic=20240522),
        "magic 20240522; allowed",
    ),
    "unknown magic in an otherwise right header": (
        lambda p: write_tokens(p, np.arange(300), magic=7),
        "magic 7; allowed",
    ),
    "unknown version": (lambda p: write_tokens(p, np.arange(300), version=3), "version 3 in its header; allowed .* 1"),
    "fewer tokens than promised": (lambda p: write_tokens(p, np.arange(300), count=301), "cut short or damaged"),
    "more tokens than promised": (lambda p: write_tokens(p, np.arange(300), count=299), "cut short or damaged"),
    "negative count": (lambda p: write_tokens(p, np.arange(300), count=-5), "cut short or damaged"),
    "half a token": (lambda p: append(write_tokens(p, np.arange(300)), b"x"), "cut short or damaged"),
    "odd headerless size": (lambda p: append(headerless(p, np.arange(300)), b"x"), "an odd number"),
    "token beyond the vocabulary": (
        lambda p: write_tokens(p, [*range(300), 1000]),
        r"token 1000, but .*vocab_size=1000",
    ),
    "uint32 tokens beyond int32": (
        lambda p: write_tokens(p, [*range(300), 2**32 - 1], magic=20240801, dtype="<u4"),
        "token 4294967295",
    ),
    "headerless uint32": (lambda p: append(p, np.arange(70000, 70300, dtype="<u4").tobytes()), "token .* another type"),
    "no tokens": (lambda p: write_tokens(p, []), "holds no tokens"),
    "empty file": (lambda p: append(p, b""), "holds no tokens"),
    "only half a header": (
        lambda p: append(p, write_tokens(p, []).read_bytes()[:500], fresh=True),
        "cut short or damaged",
    ),
    "numpy file": (lambda p: save_numpy(p), "is a numpy array"),
    "too few tokens": (lambda p: write_tokens(p, np.arange(128)), r"128 tokens, which is 1 windows .* two are needed"),
    "missing": (lambda p: p, "no file matches"),
    "directory": (lambda p: p.parent, r"is a directory; type dataset\.train="),
    "nothing": (lambda p: "", "is empty; type"),
}


def append(path, content, fresh=False):
    with open(path, "wb" if fresh else "ab") as file:
        file.write(content)
    return path


def save_numpy(path):
    with open(path, "wb") as file:
        np.save(file, np.arange(1000, dtype=np.uint16))
    return path


@pytest.mark.fault(row=26)
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_token_files_are_refused_with_a_reason(tmp_path, held_out, case):
    make, message = HOSTILE[case]
    path = make(tmp_path / "train.bin")
    with pytest.raises(ConfigError, match=rf"dataset\.train: .*{message}"):
        make_task(config_of(dataset(path, held_out)))
    with pytest.raises(ConfigError, match=rf"dataset\.validation: .*{message.replace('train', 'validation')}"):
        make_task(config_of(dataset(held_out, path)))


def test_a_bad_token_that_the_first_check_did_not_sample_never_reaches_the_model(tmp_path, held_out, monkeypatch):
    path = write_tokens(tmp_path / "train.bin", np.arange(641) % 1000)
    task = make_task(config_of(dataset(path, held_out)))
    with open(path, "r+b") as file:  # the file changes under the mapping
        file.seek(1024 + 2 * 100)
        file.write(np.array([60000], "<u2").tobytes())
    with pytest.raises(ValueError, match="token 60000"):
        task.batch(0, 10)  # all ten windows


def test_validation_may_not_be_a_training_file(tmp_path):
    for number in range(3):
        write_tokens(tmp_path / f"shard_{number}.bin", np.arange(300))
    (tmp_path / "link.bin").symlink_to(tmp_path / "shard_1.bin")
    for validation in ("shard_2.bin", "link.bin"):
        with pytest.raises(ConfigError, match="is also a training file"):
            make_task(config_of(dataset(tmp_path / "shard_*.bin", tmp_path / validation)))
