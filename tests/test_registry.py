"""Names and calls in strings."""

import re
from collections.abc import Iterable

import pytest

import dynamicblocks as db
from dynamicblocks import ConfigurationError
from dynamicblocks.registry import Registry, parse_call


def record(*arguments, **keywords):
    return arguments, keywords


@pytest.fixture
def shapes():
    registry = Registry("shape")

    @registry.register("box")
    def box(width, height=1, *, depth=2):
        return width, height, depth

    registry.register("anything")(record)
    return registry


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rk4", ("rk4", [], {})),
        ("  rk4 ", ("rk4", [], {})),
        ("f()", ("f", [], {})),
        ("f(1, -2.5, 'x')", ("f", [1, -2.5, "x"], {})),
        ("f(None, True, key=[1, (2, 3)])", ("f", [None, True], {"key": [1, (2, 3)]})),
        ("f({'a': 1}, a=1)", ("f", [{"a": 1}], {"a": 1})),
    ],
)
def test_parse_call_reads_names_and_literals(text, expected):
    assert parse_call(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "'name'",
        "two words",
        "f(",
        "f(1))",
        "a.b(1)",
        "f(1)(2)",
        "f(x)",
        "f(1 + x)",
        "f(g())",
        "f(*[1, 2])",
        "f(**{'a': 1})",
        "f(a=1, a=2)",
        "f({[]: 1})",
        "__import__('os').getcwd()",
        "f\0",
    ],
)
def test_parse_call_refuses_everything_else(text):
    with pytest.raises(db.ConfigurationError, match=re.escape(f"cannot read {text!r}")):
        parse_call(text)


def test_a_registry_lists_its_names_in_order(shapes):
    assert list(shapes) == ["anything", "box"]
    assert "box" in shapes
    assert "ball" not in shapes
    assert 3 not in shapes
    assert shapes["anything"] is record


def test_register_gives_the_factory_back():
    assert Registry("shape").register("any")(record) is record


@pytest.mark.parametrize(
    ("text", "expected"),
    [("box(3)", (3, 1, 2)), ("box(3, 4)", (3, 4, 2)), ("box(3, depth=5)", (3, 1, 5)), ("box(width=3)", (3, 1, 2))],
)
def test_create_calls_the_factory(shapes, text, expected):
    assert shapes.create(text) == expected


def test_arguments_of_create_come_first_and_keywords_in_the_text_win(shapes):
    assert shapes.create("anything(2, x=3)", 1, x=4, y=5) == ((1, 2), {"x": 3, "y": 5})


@pytest.mark.parametrize("look_up", [lambda r: r["boxx"], lambda r: r.create("boxx(3)")], ids=["item", "create"])
def test_unknown_names_suggest_the_nearest_and_list_all(shapes, look_up):
    with pytest.raises(db.ConfigurationError) as caught:
        look_up(shapes)
    assert str(caught.value) == "unknown shape 'boxx'; did you mean 'box'? Known: anything, box"


def test_unknown_names_far_from_all_list_all(shapes):
    with pytest.raises(db.ConfigurationError) as caught:
        shapes["qqqq"]
    assert str(caught.value) == "unknown shape 'qqqq'. Known: anything, box"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("box", "missing a required argument: 'width'"),
        ("box(1, 2, 3)", "too many positional arguments"),
        ("box(1, color='red')", "got an unexpected keyword argument 'color'"),
        ("box(1, width=2)", "multiple values for argument 'width'"),
    ],
)
def test_wrong_arguments_say_the_signature(shapes, text, complaint):
    message = f"shape {text!r}: {complaint}; it is box(width, height=1, *, depth=2)"
    with pytest.raises(db.ConfigurationError, match=re.escape(message)):
        shapes.create(text)


def test_errors_inside_a_factory_are_its_own(shapes):
    @shapes.register("broken")
    def broken():
        raise TypeError("inside")

    with pytest.raises(TypeError, match=r"^inside$"):
        shapes.create("broken")


def test_a_name_is_registered_once(shapes):
    with pytest.raises(db.ConfigurationError, match="the shape 'box' is registered already"):
        shapes.register("box")(record)
    assert shapes.create("box(3)") == (3, 1, 2)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: db.DynamicBlock("preact_doubel(4)", 2), "layer"),
        (lambda: db.DynamicBlock("symmetric(4)", controls="lienar(3)"), "basis of controls"),
        (lambda: db.DynamicBlock("symmetric(4)", 2, integrator="eulr"), "integrator"),
        (lambda: db.DynamicBlock("symmetric(4)", 2, gradient="bakprop"), "gradient mode"),
        (lambda: db.layers.Symmetric(4, norm="bacth"), "normalisation"),
        (lambda: db.layers.Symmetric(4, activation="rleu"), "activation"),
        (lambda: db.layers.Symmetric(4, boundary="zeroes"), "boundary condition"),
        (lambda: db.layers.ResidualUnit(4, "posst"), "residual unit"),
        (lambda: db.create_model("resnet21"), "model"),
    ],
)
def test_every_choice_by_name_suggests_a_name(build, kind):
    with pytest.raises(db.ConfigurationError, match=rf"unknown {kind} '\w+'; did you mean '\w+'\? Known: .+"):
        build()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("square('x')", "side of shape 'square' expects a whole number, got 'x'"),
        ("square(True)", "side of shape 'square' expects a whole number, got True"),
        ("square(None)", "side of shape 'square' expects a whole number, got None"),
        ("square(2.5)", "side of shape 'square' expects a whole number, got 2.5"),
        ("square(3, name=4)", "name of shape 'square' expects a text or null, got 4"),
        ("square(3, tilt='x')", "tilt of shape 'square' expects a number, got 'x'"),
    ],
)
def test_values_of_another_kind_than_annotated_are_refused_before_anything_is_made(text, said):
    shapes = Registry("shape")

    @shapes.register("square")
    def square(colour, side: int, *, name: str | None = None, tilt: float = 0.0, points: Iterable[int] = ()):
        return colour, side, name, tilt, points

    with pytest.raises(ConfigurationError, match=re.escape(said)):
        shapes.create(text, "red")
    # What is not annotated, or with what literals may stand for, takes anything.
    assert shapes.create("square(3, tilt=1, points=(1, 2))", 4) == (4, 3, None, 1, (1, 2))


NO_CALLS = {
    "minus": "f(" + "-" * 10_000 + "1)",
    "calls": "f(" * 1000,
    "sums": "f(" + "1+" * 5000 + "1)",
    "digits": "f([" + "9" * 5000 + "])",
    "long": "f(" + "1," * 20_000,
    "nul": "f(\0)",
    "half": "f('\ud800')",
    "key": "f({[]: 1})",
    "name": "f" * 100_000,
}


@pytest.mark.parametrize("name", NO_CALLS)
def test_texts_that_are_no_calls_are_refused_whatever_their_length_and_depth(name):
    with pytest.raises(ConfigurationError) as caught:
        Registry("shape").create(NO_CALLS[name])
    assert len(str(caught.value)) < 400
