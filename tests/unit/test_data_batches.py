"""What holds for every dataset: batches are a pure function of (seed, split, step, rank)."""

import numpy as np
import pytest
from data_cases import GENERATED, SOURCE_CODE, digest, same, task_of, text_dataset, write_tokens

from mhc_exp.config import schema

KINDS = [*GENERATED, "source_code", "text", "bpe", "tokens", "hub"]
GOLDEN = {
    "increment": "58ede1c7893a8c3e",
    "noisy_increment": "5dbe978f03c66369",
    "pointer_chasing": "bcf5cff2078f4b3b",
    "S3": "61f5562b5c9d1ec3",
    "A5": "da085ed6395ddf99",
    "S5": "116f214e27b12762",
    "source_code": "d6ffa884a6519887",
    "text": "5a497756dcb1b614",
    "tokens": "1e75295ec6617506",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Dataset of a kind by name; the files it needs are generated."""
    folder = tmp_path_factory.mktemp("data")
    text = "".join(f"line {i} says that {i} times {i} is {i * i}\n" for i in range(2000))
    (folder / "text.txt").write_text(text)
    (folder / "lines.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in text.splitlines()))
    write_tokens(folder / "train.bin", np.arange(9001) % 5000)
    write_tokens(folder / "validation.bin", np.arange(3000) % 5000)
    made: dict[str, schema.Dataset] = {
        **GENERATED,
        "source_code": SOURCE_CODE,
        "text": text_dataset(folder / "text.txt"),
        "bpe": text_dataset(folder / "text.txt", tokenizer="bpe"),
        "tokens": schema.Tokens("tokens", str(folder / "train.bin"), str(folder / "validation.bin"), 5000, None),
        "hub": schema.Hub("hub", str(folder / "lines.jsonl"), None, "train", None, "text", "bytes", 300, 10**9, 10.0),
    }
    return made.__getitem__


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_does_not_depend_on_what_was_asked_before(kind, dataset):
    forwards, backwards = task_of(dataset(kind)), task_of(dataset(kind))
    steps = [0, 1, 2, 3, 500, 10**6]
    in_order = [forwards.batch(step, 12) for step in steps]
    reversed_order = [backwards.batch(step, 12) for step in reversed(steps)][::-1]
    assert all(same(a, b) for a, b in zip(in_order, reversed_order, strict=True))
    assert not same(in_order[0], in_order[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_together_see_the_global_batch(kind, world, dataset):
    task = task_of(dataset(kind))
    for step in (0, 7):
        whole = task.batch(step, 12)
        for rank in range(world):
            mine = task.batch(step, 12, rank, world)
            assert all(np.array_equal(part, full[rank::world]) for part, full in zip(mine, whole, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_int32_tokens_of_the_vocabulary_with_a_boolean_mask(kind, dataset):
    task = task_of(dataset(kind), seq_len=32)
    for batch in (task.batch(3, 5), *task.validation(2, 5)):
        assert [array.dtype for array in batch] == [np.int32, np.int32, np.bool_]
        assert all(array.shape == batch.inputs.shape and array.flags.c_contiguous for array in batch)
        assert batch.inputs.shape == (5, 24 if kind == "pointer_chasing" else 32)
        assert batch.inputs.min() >= 0
        assert max(batch.inputs.max(), batch.targets.max()) < task.vocab_size
        assert batch.mask.any()


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides_training_and_never_validation(kind, dataset):
    one, other = task_of(dataset(kind), seed=1), task_of(dataset(kind), seed=2)
    assert not same(one.batch(0, 8), other.batch(0, 8))
    assert all(same(a, b) for a, b in zip(one.validation(3, 8), other.validation(3, 8), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("pointer_chasing", "S3", "A5", "S5")])
def test_next_token_tasks_shift_inputs_by_one(kind, dataset):
    batch = task_of(dataset(kind)).batch(0, 4)
    assert np.array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert batch.mask.all()


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_first_three_batches_never_change(kind, dataset):
    task = task_of(dataset(kind), seed=42)
    assert digest([task.batch(step, 16) for step in range(3)] + task.validation(1, 16)) == GOLDEN[kind]


@pytest.mark.parametrize(("step", "rank", "world"), [(-1, 0, 1), (0, 2, 2), (0, -1, 2)])
def test_impossible_batches_are_refused(step, rank, world, dataset):
    for kind in ("increment", "text"):
        with pytest.raises(ValueError, match="no batch"):
            task_of(dataset(kind)).batch(step, 4, rank, world)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_plain_data_and_tells_datasets_apart(kind, dataset):
    import json

    record = task_of(dataset(kind)).identity()
    assert json.loads(json.dumps(record)) == record
    assert record["name"]
    assert record["split"]
    assert str(dataset("text").path).rsplit("/", 1)[0] not in json.dumps(record), "no path of this machine"
