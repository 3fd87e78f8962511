"""Hub datasets: a local .jsonl file and a streamed dataset go through the same path; nothing unpinned is read."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from data_cases import config_of, same

from mhc_exp.config import schema
from mhc_exp.config.build import ConfigError
from mhc_exp.data import hub, make_task

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = [f"Document {i}: " + f"fact {i} is not fact {i + 1}; " * 8 for i in range(200)]


def local(path, **changes):
    dataset = schema.Hub("hub", str(path), None, "train", None, "text", "bytes", 300, 10**9, 10.0)
    return replace(dataset, **changes)


def write(path, texts, field="text"):
    path.write_text("".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture
def streamed(tmp_path, monkeypatch):
    """A stand-in for the `datasets` package; its `calls` are the arguments of load_dataset."""
    library = SimpleNamespace(calls=[], rows=[{"text": text} for text in TEXTS])

    def load_dataset(id, **arguments):
        library.calls.append((id, arguments))
        return iter(library.rows)

    library.load_dataset = load_dataset
    monkeypatch.setitem(__import__("sys").modules, "datasets", library)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return library


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_local_file_becomes_a_text_task(tmp_path, tokenizer):
    task = make_task(config_of(local(write(tmp_path / "a.jsonl", TEXTS), tokenizer=tokenizer)))
    parts = task.parts  # type: ignore[attr-defined]
    assert all((text.encode() in parts.training) != (text.encode() in parts.held_out) for text in TEXTS)
    assert 0.05 < task.identity()["held_out_bytes"] / task.identity()["bytes"] < 0.15
    assert task.identity()["documents"] == 200
    assert task.decode(task.batch(0, 1).inputs[0]) in parts.training.decode()


def test_equal_documents_are_never_on_both_sides(tmp_path):
    task = make_task(config_of(local(write(tmp_path / "a.jsonl", TEXTS * 3))))
    parts = task.parts  # type: ignore[attr-defined]
    assert not set(parts.training.split(b"\n")) & set(parts.held_out.split(b"\n"))


def test_reading_stops_after_max_bytes(tmp_path):
    path = write(tmp_path / "a.jsonl", TEXTS)
    documents = hub.read_jsonl(path, "text", 5000)
    read = sum(len(document.text) for document in documents)
    assert 5000 <= read < 5000 + max(map(len, TEXTS))


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ('{"text": "a"}\nnot json\n', {}, r"dataset\.id: a\.jsonl line 2 is not JSON"),
        ('{"body": "a"}\n', {}, r"dataset\.text_field: .* no text in the field 'text'; it has: body"),
        ('{"text": 5}\n', {}, r"dataset\.text_field: .*line 1"),
        ("[1, 2]\n", {}, "no fields, it is list"),
        ("[" * 100000 + "\n", {}, "is not JSON"),
        ("\n\n", {}, "has no text"),
        ('{"text": "short"}\n{"text": "also short"}\n', {}, r"dataset\.max_bytes: .*two are needed"),
    ],
)
def test_unusable_files_are_refused_with_a_reason(tmp_path, content, changes, message):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=message):
        make_task(config_of(local(tmp_path / "a.jsonl", **changes)))


def test_a_missing_local_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset\.id: .*nothing\.jsonl' does not exist"):
        make_task(config_of(local(tmp_path / "nothing.jsonl")))


def test_a_streamed_dataset_is_the_same_as_its_rows_in_a_local_file(tmp_path, streamed):
    remote = make_task(config_of(local("owner/name", revision=COMMIT)))
    here = make_task(config_of(local(write(tmp_path / "a.jsonl", TEXTS))))
    assert same(remote.batch(0, 8), here.batch(0, 8))
    assert remote.identity()["sha256"] == here.identity()["sha256"]
    assert remote.identity()["revision"] == COMMIT


def test_a_dataset_is_streamed_once_per_revision_and_size(streamed):
    for _ in range(3):
        make_task(config_of(local("owner/name", revision=COMMIT)))
    assert len(streamed.calls) == 1
    make_task(config_of(local("owner/name", revision=COMMIT[::-1])))
    make_task(config_of(local("owner/name", revision=COMMIT, max_bytes=20000)))
    assert len(streamed.calls) == 3
    assert streamed.calls[0] == (
        "owner/name",
        {"name": None, "split": "train", "revision": COMMIT, "streaming": True},
    )


def test_a_short_name_stands_for_repository_and_subset(streamed):
    make_task(config_of(local("fineweb_edu_10bt", revision=COMMIT)))
    make_task(config_of(local("fineweb_edu_10bt", revision=COMMIT, subset="sample-100BT")))
    assert [(id, arguments["name"]) for id, arguments in streamed.calls] == [
        ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
        ("HuggingFaceFW/fineweb-edu", "sample-100BT"),
    ]


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:-1], COMMIT.upper()])
def test_a_revision_that_can_move_is_refused(streamed, revision):
    with pytest.raises(ConfigError, match=r"dataset\.revision: .*40 hexadecimal digits"):
        make_task(config_of(local("owner/name", revision=revision)))
    assert not streamed.calls


@pytest.mark.parametrize("id", ["", "fineweb", "../../etc/passwd", "a/b/c"])
def test_an_id_that_is_no_repository_is_refused(streamed, id):
    with pytest.raises(ConfigError, match=r"dataset\.id: "):
        make_task(config_of(local(id, revision=COMMIT)))
    assert not streamed.calls


def test_a_stream_that_breaks_leaves_nothing_behind_and_can_be_tried_again(streamed):
    def broken():
        yield from [{"text": text} for text in TEXTS[:50]]
        raise ConnectionError("the network is gone")

    config = config_of(local("owner/name", revision=COMMIT))
    whole, streamed.rows = streamed.rows, broken()
    with pytest.raises(ConfigError, match="cannot stream owner/name: ConnectionError: the network is gone"):
        make_task(config)
    assert list(hub.cache_directory().iterdir()) == []
    streamed.rows = whole
    assert make_task(config).identity()["documents"] == 200


def test_streamed_rows_without_the_text_field_are_refused_by_its_name(streamed):
    with pytest.raises(ConfigError, match=r"dataset\.text_field: a row of owner/name .* 'body'; it has: text"):
        make_task(config_of(local("owner/name", revision=COMMIT, text_field="body")))


def test_a_missing_datasets_package_gives_the_line_to_type(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install 'mhc-exp\[hub\]'"):
        make_task(config_of(local("owner/name", revision=COMMIT)))
