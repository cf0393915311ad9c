"""Tables as text: the compiled writer's bytes are those of Python's `%`, and what does not fit is refused."""

import pytest
import torch

from kernels import extension
from kernels.number_lines import number_lines, number_lines_python

VERSIONS = [False, pytest.param(True, marks=pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built"))]


@pytest.mark.parametrize("compiled", VERSIONS)
def test_rows_become_lines(compiled):
    assert number_lines("v %.3g %.1g\n", torch.tensor([[0.5, -2.0], [1e-7, 123456.0]]), compiled=compiled) == b"v 0.5 -2\nv 1e-07 1e+05\n"
    assert number_lines("f %d/%d;", torch.tensor([[1, -2], [3, 4]], dtype=torch.int32), compiled=compiled) == b"f 1/-2;f 3/4;"
    assert number_lines("%d", torch.zeros(0, 1, dtype=torch.long), compiled=compiled) == b""


@pytest.mark.parametrize("digits", [1, 5, 7, 17])
def test_floats_are_written_as_python_does(digits):
    random = torch.Generator().manual_seed(0)
    values = torch.randn(3000, generator=random, dtype=torch.float64) * 10.0 ** torch.randint(-20, 20, (3000,), generator=random)
    odd = [
        0.0,
        -0.0,
        0.5,
        1.5,
        2.5,
        99999.95,
        9999999.5,
        1e-5,
        1e-4,
        5e-324,
        -1.7976931348623157e308,
        torch.nan,
        -torch.nan,
        torch.inf,
        -torch.inf,
    ]
    for table in (torch.cat([values, torch.tensor(odd, dtype=torch.float64)]).reshape(-1, 3), values.float().reshape(-1, 2)):
        template = " ".join([f"%.{digits}g"] * table.shape[1]) + "\n"
        assert number_lines(template, table) == number_lines_python(template, table)


def test_integers_are_written_in_full():
    ends = torch.iinfo(torch.int64)
    table = torch.cat([torch.arange(-5000, 5000), torch.tensor([ends.min, ends.max])])[:, None]
    assert number_lines("%d,", table) == number_lines_python("%d,", table)


@pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built")
def test_the_number_of_threads_does_not_matter():
    table = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    threads, texts = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            texts.append(number_lines("%.7g %.7g %.7g\n", table, compiled=True))
    finally:
        torch.set_num_threads(threads)
    assert texts[0] == texts[1] == number_lines_python("%.7g %.7g %.7g\n", table)


@pytest.mark.parametrize("template", ["%.7g\n", "%d %d\n", "%.7g %d\n", "%.7g %s\n", "50% %.7g %.7g\n", "\n"])
def test_a_template_that_does_not_fit_is_refused(template):
    with pytest.raises(ValueError, match=r"does not fit a torch\.float32 table of shape \[4, 2\]"):
        number_lines(template, torch.zeros(4, 2))


@pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built")
def test_the_op_is_registered_right():
    number_lines("%d", torch.zeros(1, 1, dtype=torch.long), compiled=True)
    torch.library.opcheck(torch.ops.microdreamer.number_lines, (torch.rand(7, 2).double(), ["a", " ", "\n"], [7, 5]))
    with pytest.raises(ValueError, match="digits: expected 1 to 17, got 18"):
        torch.ops.microdreamer.number_lines(torch.rand(7, 2).double(), ["a", " ", "\n"], [7, 18])
