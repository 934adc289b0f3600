"""A condition on the manifest's columns, as `--where` takes it: parsed, checked against the columns, never evaluated.

The words are Python's, so pandas users know them: comparisons (also chained), `and`, `or`, `not`, `in`, `is None`,
`len(column)`, `column("odd name")`. Only these forms are known; each becomes a kernel over Arrow columns. A
comparison with a missing value is false, `!=` with one is true, as in pandas.
"""

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from math import inf
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchflux.core.errors import UsageError

__all__ = ["Mask", "parse_where"]

Mask: TypeAlias = Callable[[pa.Table], pa.ChunkedArray]

_LONGEST: Final = 4000
_DEEPEST: Final = 40
_ORDER: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_KINDS: Final = {"text": "text", "number": "a number", "truth": "true or false", "moment": "a time", "day": "a day"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operand:
    """A column (`read` gives it, of Arrow type `type`) or a constant, with what kind of value it holds."""

    kind: str
    name: str
    read: Callable[[pa.Table], Any] | None = None
    type: pa.DataType | None = None
    value: Any = None

    @property
    def said(self) -> str:
        return f"{self.name} is {_KINDS.get(self.kind, self.kind)}"


def parse_where(text: str, schema: pa.Schema) -> Mask:
    """Return what tells for each row of a table of this schema whether the condition holds. Raises UsageError."""
    return _Parser(text, schema).parse()


class _Parser:
    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text, self._schema = text, schema
        self._depth = 0

    def parse(self) -> Mask:
        if len(self._text) > _LONGEST:
            raise UsageError(f"--where: longer than {_LONGEST:,} characters; pick cells with --only instead")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about unknown escapes in a text; they are what they are
                tree = ast.parse(self._text.strip(), mode="eval")
        except SyntaxError as error:
            place = f"column {error.offset}: " if error.offset else ""
            raise UsageError(f"--where: {place}{error.msg}; {_FORMS}") from None
        except (ValueError, RecursionError, MemoryError):
            raise UsageError(f"--where: can't be read; {_FORMS}") from None
        return self._condition(tree.body)

    def _fault(self, node: ast.AST, what: str) -> UsageError:
        line = self._text.strip().split("\n")[getattr(node, "lineno", 1) - 1]
        place = len(line.encode()[: getattr(node, "col_offset", 0)].decode("utf-8", "replace")) + 1
        return UsageError(f"--where: column {place}: {what}")

    def _condition(self, node: ast.expr) -> Mask:
        self._depth += 1
        try:
            if self._depth > _DEEPEST:
                raise self._fault(node, "nested too deep; pick cells with --only instead")
            match node:
                case ast.BoolOp(op=op, values=values):
                    return self._joined([self._condition(each) for each in values], is_and=isinstance(op, ast.And))
                case ast.UnaryOp(op=ast.Not(), operand=operand):
                    inner = self._condition(operand)
                    return lambda table: pc.invert(inner(table))
                case ast.Compare(left=left, ops=ops, comparators=others):
                    sides = [left, *others]
                    pairs = zip(sides, ops, sides[1:], strict=False)
                    return self._joined([self._compared(node, one, op, other) for one, op, other in pairs], is_and=True)
                case _:
                    return self._truth(node)
        finally:
            self._depth -= 1

    def _joined(self, masks: list[Mask], *, is_and: bool) -> Mask:
        join = pc.and_ if is_and else pc.or_

        def mask(table: pa.Table) -> pa.ChunkedArray:
            found = masks[0](table)
            for other in masks[1:]:
                found = join(found, other(table))
            return found

        return mask

    def _truth(self, node: ast.expr) -> Mask:
        operand = self._operand(node)
        read = operand.read
        if read is None or operand.kind != "truth":
            raise self._fault(node, f"{operand.said} and no condition; compare it, as in {operand.name} == ...")
        return lambda table: pc.fill_null(read(table), False)

    def _compared(self, whole: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Mask:
        if isinstance(op, ast.In | ast.NotIn):
            return _inverted(self._within(left, right), isinstance(op, ast.NotIn))
        one, other = self._operand(left), self._operand(right)
        if one.read is None and other.read is None:
            raise self._fault(whole, "compares two values and no column")
        is_same = isinstance(op, ast.Eq | ast.Is)
        if "null" in (one.kind, other.kind):
            column = one if one.read is not None else other
            if not isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot) or column.read is None:
                raise self._fault(whole, "None can't be ordered; ask `is None` or `is not None`")
            read = column.read
            return _inverted(lambda table: pc.is_null(read(table)), not is_same)
        if isinstance(op, ast.Is | ast.IsNot):
            raise self._fault(whole, "`is` asks for None alone; compare with ==")
        first, second = self._alike(whole, one, other)
        if isinstance(op, ast.Eq | ast.NotEq):
            return _inverted(_filled(pc.equal, first, second), not is_same)
        if one.kind == "truth" or type(op) not in _ORDER:
            raise self._fault(whole, f"{one.said}, which has no order; compare with == or !=")
        return _filled(_ORDER[type(op)], first, second)

    def _within(self, left: ast.expr, right: ast.expr) -> Mask:
        one = self._operand(left)
        if isinstance(right, ast.Tuple | ast.List | ast.Set):
            if one.read is None:
                raise self._fault(left, "`in` a list asks about a column")
            masks = []
            for each in right.elts:
                other = self._operand(each)
                if other.read is not None:
                    raise self._fault(each, "a list holds plain values")
                if other.kind == "null":
                    raise self._fault(each, "None is asked for with `is None`")
                masks.append(_filled(pc.equal, *self._alike(each, one, other)))
            if not masks:
                raise self._fault(right, "the list is empty")
            return self._joined(masks, is_and=False)
        other = self._operand(right)
        read, text = other.read, one.value
        if read is None or one.read is not None or not isinstance(text, str):
            raise self._fault(right, "`in` wants a list of values, or asks for a text in a column: 'kite' in prompt")
        if other.kind == "text":
            return lambda table: pc.fill_null(pc.match_substring(read(table), text), False)
        if other.kind == "list" and other.type is not None and types.is_string(other.type.value_type):
            return lambda table: pa.chunked_array(
                [pa.array([text in (each or ()) for each in read(table).to_pylist()], pa.bool_())]
            )
        raise self._fault(right, f"{other.said}: a text can't be in it")

    def _alike(self, node: ast.expr, one: _Operand, other: _Operand) -> tuple[_Operand, _Operand]:
        """Return two operands of one kind; texts become times where the other side is one."""
        if one.kind in ("moment", "day") and other.kind == "text" and other.read is None:
            return one, self._moment(node, other, one)
        if other.kind in ("moment", "day") and one.kind == "text" and one.read is None:
            return self._moment(node, one, other), other
        if one.kind != other.kind or one.kind not in _KINDS:
            raise self._fault(node, f"{one.said}, {other.said}: they can't be compared")
        return one, other

    def _moment(self, node: ast.expr, constant: _Operand, column: _Operand) -> _Operand:
        assert column.type is not None  # noqa: S101 - a constant is never a time by itself
        try:
            if column.kind == "day":
                value: Any = date.fromisoformat(constant.value)
            else:
                moment = datetime.fromisoformat(constant.value)
                aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
                value = aware if column.type.tz is not None else aware.astimezone(UTC).replace(tzinfo=None)
            return _Operand(kind=column.kind, name=constant.name, value=pa.scalar(value, column.type))
        except (ValueError, OverflowError, pa.ArrowException):
            raise self._fault(
                node, f"{column.said}, {constant.name} is none; write one like '2026-01-31T12:00:00Z'"
            ) from None

    def _operand(self, node: ast.expr) -> _Operand:
        match node:
            case ast.Constant(value=value):
                return self._constant(node, value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return self._constant(node, -value)
            case ast.Name(id=name):
                return self._column(node, name)
            case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)], keywords=[]):
                return self._column(node, name)
            case ast.Call(func=ast.Name(id="len"), args=[inner], keywords=[]):
                return self._length(node, self._operand(inner))
            case _:
                raise self._fault(node, f"{ast.unparse(node)!r} is not known here; {_FORMS}")

    def _constant(self, node: ast.expr, value: object) -> _Operand:
        match value:
            case None:
                return _Operand(kind="null", name="None")
            case bool():
                return _Operand(kind="truth", name=str(value), value=value)
            case int():
                return _Operand(kind="number", name=str(value), value=_number(value))
            case float():
                return _Operand(kind="number", name=str(value), value=value)
            case str():
                return _Operand(kind="text", name=repr(value), value=value)
            case _:
                raise self._fault(node, f"{value!r} is not known here; {_FORMS}")

    def _column(self, node: ast.expr, name: str) -> _Operand:
        if name not in self._schema.names:
            near = get_close_matches(name, self._schema.names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self._schema.names)}"
            raise self._fault(node, f"{name} is no column of the manifest; {hint}")
        kind = self._schema.field(name).type
        plain = kind.value_type if types.is_dictionary(kind) else kind
        to = pa.float64() if types.is_decimal(plain) or types.is_uint64(plain) else plain

        def read(table: pa.Table) -> Any:
            return table[name] if kind == to else pc.cast(table[name], to)

        return _Operand(kind=_kind_of(to), name=name, read=read, type=to)

    def _length(self, node: ast.expr, inner: _Operand) -> _Operand:
        read = inner.read
        if read is None or inner.kind not in ("list", "text"):
            raise self._fault(node, "len() wants a column of lists or of text")
        measure = pc.list_value_length if inner.kind == "list" else pc.utf8_length
        return _Operand(kind="number", name=f"len({inner.name})", read=lambda table: measure(read(table)))


_FORMS: Final = "write comparisons of columns joined by and, or, not, such as: status == 'completed' and seed in (1, 2)"


def _kind_of(kind: pa.DataType) -> str:
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_boolean(kind):
        return "truth"
    if types.is_timestamp(kind):
        return "moment"
    if types.is_date(kind):
        return "day"
    return "list" if types.is_list(kind) or types.is_large_list(kind) else f"of the type {kind}"


def _number(value: int) -> int | float:
    """Return what an Arrow column can be compared with: beyond 64 bits a float, which has the same order."""
    if abs(value) < 2**63:
        return value
    return float(value) if abs(value) < 10**300 else (inf if value > 0 else -inf)


def _inverted(mask: Mask, is_inverted: bool) -> Mask:
    return (lambda table: pc.invert(mask(table))) if is_inverted else mask


def _filled(kernel: Callable[[Any, Any], Any], one: _Operand, other: _Operand) -> Mask:
    def mask(table: pa.Table) -> pa.ChunkedArray:
        first = one.read(table) if one.read is not None else one.value
        second = other.read(table) if other.read is not None else other.value
        return pc.fill_null(kernel(first, second), False)

    return mask
