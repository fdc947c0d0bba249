"""Configs are read, never executed: what is a literal is known, all else is unknown until somebody needs it."""

import pytest

from deformable_detr_refine.conversion import CheckpointError
from deformable_detr_refine.conversion.mmdet_config import literals
from deformable_detr_refine.conversion.mmdet_config.literals import Unknown
from deformable_detr_refine.conversion.mmdet_config.text import read_config_file, read_config_text


def read(text):
    return read_config_text(text, "the text")


def test_literals():
    names = read(
        "import os\n"
        "'a docstring'\n"
        "a = -3\n"
        "b = 2e-4 * 10 + a / 2\n"
        "c = dict(x=[1, (2, None)], y={'k': True}, **dict(z='text' + ' and more'))\n"
        "d = e = c['x'][1][0]\n"
        "f = [*c['x'], *(5, 6)]\n"
        "g = list((1, 2)) + [3]\n"
        "h: int = 4\n"
        "h += 1\n"
        "c['y']['new'] = h\n"
    )
    assert names["a"] == -3 and names["b"] == pytest.approx(2e-3 - 1.5)
    assert names["c"] == {"x": [1, (2, None)], "y": {"k": True, "new": 5}, "z": "text and more"}
    assert names["d"] == names["e"] == 2 and names["f"] == [1, (2, None), 5, 6] and names["g"] == [1, 2, 3]
    assert names["h"] == 5 and isinstance(names["os"], Unknown)


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').system('touch canary')",
        "open('canary', 'w')",
        "[x for x in (1, 2)]",
        "f'{a}'",
        "lambda: 0",
        "1 if a else 2",
        "undefined",
        "9 ** 9 ** 9 ** 9",
        "'a' * 10 ** 9",
        "1 / 0",
        "dict([(1, 2)])",
        "{[]: 1}",
        "a.b",
        "a[0]",
        "dict(**a)",
        "(yield)",
    ],
)
def test_what_is_no_literal_is_unknown(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = read(f"a = 1\nb = {value}\nc = dict(d={value}, e=2)")
    assert isinstance(names["b"], Unknown) and names["b"].line == 2
    assert names["c"]["e"] == 2 and isinstance(names["c"]["d"], Unknown)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "statement",
    [
        "model.update(x=2)",
        "if True:\n    model = 2",
        "for model in (1, 2): pass",
        "with open('x') as model: pass",
        "del model",
        "def model(): pass",
        "import x as model",
        "change(model)",
        "model, other = 1, 2",
        "model.x = 2",
        "try:\n    model = 2\nexcept E: pass",
    ],
)
def test_a_statement_that_may_change_a_name_makes_it_unknown(statement):
    assert isinstance(read(f"model = dict(x=1)\n{statement}")["model"], Unknown)


def test_growth_is_bounded():
    squaring = "\n".join(f"n{i + 1} = n{i} * n{i}" for i in range(100))
    assert isinstance(read("n0 = 3\n" + squaring)["n100"], Unknown)
    with pytest.raises(CheckpointError):
        read("a = " + "(" * 5000 + ")" * 5000)
    with pytest.raises(CheckpointError):
        read("a = " + "-" * 50_000 + "1")


@pytest.mark.parametrize(
    "text",
    [
        "a = ['x'] * 9\n" + "a0 = ['x']\n" + "".join(f"a{n + 1} = [a{n}, a{n}]\n" for n in range(40)),
        "a0 = ['x']\n" + "".join(f"a{n + 1} = a{n} + a{n}\n" for n in range(40)),
        "a = 'x'\n" + "a += a\n" * 40,
        "a = [[['x']]]\n" + "a = [[a[0], a[0]]]\n" * 40,
        "a = dict(b=['x'])\n" + "a['b'] = [a.b, a.b]\n" * 40,
        "a = dict(x=1)\n" + "".join(f"b{n} = dict(x{n}=1, **a)\na = b{n}\n" for n in range(300)),
        "a = ['x']\n" + "a = [*a, *a]\n" * 40,
        "a = dict()\n" + "a = dict(b=a)\n" * 500,
        "a = dict()\na['b'] = a\n",
        "a = []\nb = dict(a=a)\nb['c'] = [b]\n",
    ],
    ids=lambda text: text[-30:],
)
def test_a_text_that_grows_by_its_own_names_is_refused(text, monkeypatch):
    monkeypatch.setattr(literals, "_MOST_READ", 20_000)
    with pytest.raises(CheckpointError, match="grows, by its own names, larger or deeper than any config"):
        read(text)


def test_bases_merge_as_mmengine_merges_them(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data.py").write_text("scale = (1333, 800)\nnested = dict(keep=1, change=2)\n")
    (tmp_path / "model.py").write_text("model = dict(type='A', head=dict(a=1, b=2), neck=dict(n=1), list=[1, 2])\n")
    (tmp_path / "child.py").write_text(
        "_base_ = ['./model.py', 'sub/data.py']\n"
        "model = dict(head=dict(b=3, c=_base_.scale), neck=dict(_delete_=True, m=1), list=[{{_base_.nested.keep}}])\n"
        "nested = dict(change=5)\n"
    )
    assert read_config_file(tmp_path / "child.py") == {
        "scale": (1333, 800),
        "nested": {"keep": 1, "change": 5},
        "model": {"type": "A", "head": {"a": 1, "b": 3, "c": (1333, 800)}, "neck": {"m": 1}, "list": [1]},
    }


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("_base_ = 'absent.py'", FileNotFoundError, r"absent\.py.*builds on"),
        ("_base_ = ['a.py', 'b.py']", CheckpointError, r"more than one .* sets same"),
        ("_base_ = 'child.py'", CheckpointError, "circle"),
        ("import os\n_base_ = os.environ['X']", CheckpointError, "line 2: _base_ is not a literal"),
        ("_base_ = 'mmdet::deformable_detr/x.py'", CheckpointError, "mmdet::deformable_detr"),
        (
            "from mmengine.config import read_base\nwith read_base():\n    from .a import *",
            CheckpointError,
            "read_base",
        ),
        ("_base_ = 'a.py'\nsame = dict(x=1)", CheckpointError, "same is a dictionary here and a int"),
        ("this is no python", CheckpointError, "not the Python text"),
        ("a = '\\0' \x00", CheckpointError, "not the Python text"),
    ],
)
def test_config_files_that_cannot_be_followed(tmp_path, text, error, message):
    (tmp_path / "a.py").write_text("same = 1")
    (tmp_path / "b.py").write_text("same = 2")
    (tmp_path / "child.py").write_text(text)
    with pytest.raises(error, match=message):
        read_config_file(tmp_path / "child.py")


def test_a_text_alone_has_no_bases():
    with pytest.raises(CheckpointError, match="--config"):
        read("_base_ = 'x.py'")
