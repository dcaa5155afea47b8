"""Configurations are plain values from regular files, bounded in size, depth, aliases and digits."""

import os

import pytest

import dynamicblocks as db
from dynamicblocks.options.bounded_yaml import MOST_BYTES, MOST_DEEP, MOST_ENTRIES, read_yaml, yaml_value
from dynamicblocks.tasks.parsing import written_as_flags, written_in_file


def levels_of_aliases(first, line):
    return first + "".join(line.format(n=n, names=",".join([f"*a{n - 1}"] * 10)) for n in range(1, 11))


ALIASES = levels_of_aliases("a0: &a0 [x, x]\n", "a{n}: &a{n} [{names}]\n")
MERGES = levels_of_aliases("a0: &a0 {x: 1}\n", "a{n}: &a{n}\n  <<: [{names}]\n")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[" * 100_000, "nested more than 32 levels deep"),
        ("{a: " * 30_000, "nested more than 32 levels deep"),
        ("- " * 60_000, "nested more than 32 levels deep"),
        ("? " * 60_000, "nested more than 32 levels deep"),
        (ALIASES, "more than 5,000 values"),
        (MERGES, "more than 5,000 values"),
        ("a: &a [*a]", "stands within what it names"),
        ("a: &a {b: &b [*a]}", "stands within what it names"),
        ("".join(f"k{n}: 1\n" for n in range(6_000)), "more than 5,000 values"),
        ("epochs: 1\nseed: 2\nepochs: 3\n", "the key 'epochs' stands twice in one mapping, again at line 3"),
        ("model: {name: resnet20, name: resnet32}", "the key 'name' stands twice"),
        ("a: !!set {b, c}", "!!set is no plain value"),
        ("a: !!binary aGk=", "!!binary is no plain value"),
        ("a: !!timestamp 2020-01-01", "!!timestamp is no plain value"),
        ("a: !!python/object/apply:os.system [echo]", "!!python/object/apply:os.system is no plain value"),
        ("a: !mine b", "!mine is no plain value"),
        ("a: !!bool maybe", "not what its tag says"),
        ("a: !!int ''", "not what its tag says"),
        ("a: " + "7" * 5000, "a number of 5,000 characters"),
        ("a: 1" + ":1" * 60_000, "a number of 120,001 characters"),
        ("a: 0x" + "f" * 60_000, "a number of 60,002 characters"),
        ('a: "\\0"', "a NUL"),
        ('a: "\\ud800"', "half of a character"),
        ("a: \x00", "unacceptable character"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("? [1]\n: 2", "unhashable key"),
        ("", "holds no options"),
        ("# nothing\n", "holds no options"),
        ("null", "holds no options"),
        ("3", "must hold a mapping of options, got int"),
    ],
    ids=range(30),
)
def test_what_is_no_configuration_is_refused_in_one_line(tmp_path, written, said):
    path = tmp_path / "mine.yaml"
    path.write_text(written)
    with pytest.raises(db.StorageError) as caught:
        written_in_file(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_only_regular_files_of_text_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (MOST_BYTES + 1))
    (tmp_path / "latin").write_bytes("run: Zürich".encode("latin-1"))
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path, said in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "large", "is larger than a configuration can be"),
        (tmp_path / "latin", "is no text in UTF-8: byte 6 is 0xfc"),
        (tmp_path / "round", "cannot be read"),
        (tmp_path / "none", "cannot be read: No such file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(db.StorageError, match=said):
            read_yaml(path)


def test_what_a_configuration_may_hold(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeffa: &x [1, 2.5]\nb: *x\nc: {<<: {d: 1, e: 0}, e: null}\nrun: 2020-01-01\nf: 1e-3\ng: yes\n")
    assert read_yaml(path) == {
        "a": [1, 2.5],
        "b": [1, 2.5],
        "c": {"d": 1, "e": None},
        "run": "2020-01-01",  # as it is behind a flag
        "f": "1e-3",
        "g": True,
    }
    assert yaml_value("[" * MOST_DEEP + "]" * MOST_DEEP) is not None
    assert len(yaml_value(f"[{'1,' * (MOST_ENTRIES - 1)}]")) == MOST_ENTRIES - 1


@pytest.mark.parametrize(
    "text", ["{a: " * 40_000, "{a: &a [*a]}", "{a: 1, a: 2}", "{" + "a" * MOST_BYTES + "}", "{"], ids=range(5)
)
def test_texts_behind_flags_are_bounded_alike(text):
    with pytest.raises(db.ConfigurationError, match=r"^--model cannot be read: [^\n]*$"):
        written_as_flags(["--model", text])
