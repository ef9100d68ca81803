import fire
import pytest

from aps_components import cli
from aps_components.cli.arguments import parsed, read_as_typed, several, strict
from aps_components.options import refuse_unknown


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ((0, 1), [0, 1]),
        ([0.5], [0.5]),
        (3, [3]),
        (0.25, [0.25]),
        ("all", ["all"]),
        ("a/model.pt, b/model.pt,", ["a/model.pt", "b/model.pt"]),
    ],
)
def test_several_values_however_fire_read_them(given, meant):
    assert several(given) == meant


@pytest.mark.parametrize("file", ["a,b", "a,b/model.pt"])
def test_a_comma_belongs_to_the_name_of_a_file_that_there_is(tmp_path, file):
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "model.pt").touch()
    first, other = str(tmp_path / file), str(tmp_path / "other.pt")
    assert several(parsed(first)) == [first]
    assert several(parsed(repr([first, other]))) == [first, other]
    assert several(f"{other},{tmp_path}") == [other, str(tmp_path)]


def called(*words):
    """What a command is called with for words of a command line."""
    done = []

    def command(place: str, count: int = 1, *, more: str | None = None) -> None:
        done.append((place, count, more))

    read_as_typed(command)
    fire.Fire({"command": strict(command)}, command=["command", *words], name="aps")
    return done


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["a"], ("a", 1, None)),
        (["a", "2", "--more=x"], ("a", 2, "x")),
        (["2024_01_05"], ("2024_01_05", 1, None)),
        (["20240105"], ("20240105", 1, None)),
        (["1.10", "--more", "2024.10"], ("1.10", 1, "2024.10")),
        (["0x10", "--more=12e4"], ("0x10", 1, "12e4")),
        (["a,b", "--more=1,2"], ("a,b", 1, "1,2")),
        (["(a)", "--more=[a,b]"], ("(a)", 1, ["a", "b"])),
        (["--count", "3", "--place", "7", "--more", "8"], ("7", 3, "8")),
        (["results#2"], ("results#2", 1, None)),
    ],
)
def test_a_command_gets_what_was_typed(words, meant):
    assert called(*words) == [meant]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--cuont", "3"], "no option --cuont; did you mean --count"),
        (["a", "2", "x"], "x is one value too many"),
        ([""], "place is empty"),
        (["a", "--more="], "more is empty"),
        (["a", "--more", "  "], "more is empty"),
        (["a", "--more"], "--more is given without a value"),
    ],
)
def test_what_a_command_does_not_have_is_refused_before_it_runs(words, said):
    with pytest.raises(ValueError, match=said):
        called(*words)


def test_help_is_help_for_every_command(monkeypatch, capsys):
    for name in ("phantoms", "segment", "new-bundle"):
        monkeypatch.setattr("sys.argv", ["aps", name, "--help"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        assert f"aps {name}" in "".join(capsys.readouterr())


def test_a_mistyped_option_of_a_command_that_hands_others_on_is_known():
    def command(time: str = "4h", **options) -> None:
        refuse_unknown(options, ["ema_decay"])

    for given, meant in (("tim", "did you mean --time"), ("ema_dcay", "did you mean --ema_decay")):
        with pytest.raises(ValueError, match=f"no option --{given}; {meant}"):
            strict(command)(**{given: "8m"})
    strict(command)(time="8m", ema_decay=0.9)
