"""How settings are read: one struct says which there are, and flags, environment, file and documents follow from it.

A field `drain_seconds` is the flag `--drain-seconds`, the variable `PERDURE_DRAIN_SECONDS` and the key `drain_seconds`
of the TOML file; the text below it is its description. What its name ends in says how it is written: `_seconds` is a
duration (`10s`, `1h 30m`, or a number of seconds), `_size_limit` and `_memory_limit` are sizes (`32MiB`, or a number of
bytes), and the value of a `_token`, `_secret`, `_password` or `_headers` is never shown. A field may be a `str`, `int`,
`float`, `bool`, a `Literal` of texts, a `tuple[str, ...]`, or one of them or None.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from perdure.errors import Invalid
from perdure.web.durations import format_duration, parse_duration_ms

__all__ = ["FILE", "Found", "Setting", "Source", "masked", "nearest", "read", "settings_of", "written"]

FILE: Final = "perdure.toml"
"""What is read if it is in the working directory."""
PREFIX: Final = "PERDURE_"
OTHER_VARIABLES: Final = (
    "PERDURE_CONFIG",
    "PERDURE_ADMIN_URL",
    "PERDURE_INGRESS_URL",
    "PERDURE_API_KEY",
    "PERDURE_API_KEY_FILE",
    "PERDURE_CA_FILE",
)
"""Variables that are no settings of a server: the commands that ask one read them."""
MASK: Final = "********"

_SECRET: Final = ("_token", "_tokens", "_secret", "_secrets", "_password", "_headers")
_SIZES: Final = ("_size_limit", "_memory_limit")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_BINARY: Final = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_BYTES: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, **_BINARY}
_USERINFO: Final = re.compile(r"(\w+://)([^/@\s]+)@")
# What Kubernetes tells every container about a Service that is called perdure, or perdure-admin.
_KUBERNETES: Final = re.compile(
    r"PERDURE(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_KUBERNETES_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://[^/]+:\d+")  # the value of a PERDURE_ADMIN_PORT of its

C = TypeVar("C", bound=msgspec.Struct)


class Setting(NamedTuple):
    """One setting, by all its names."""

    name: str
    type: Any
    """Without the None that says that it may be absent."""
    default: Any
    description: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_duration(self) -> bool:
        return self.name.endswith("_seconds")

    @property
    def is_size(self) -> bool:
        return self.name.endswith(_SIZES)

    @property
    def is_secret(self) -> bool:
        return self.name.endswith(_SECRET)

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that are allowed, if only some are."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.is_duration:
            return "a duration such as 10s or 1h 30m, or a number of seconds"
        if self.is_size:
            return "a size such as 32MiB or 64KB, or a number of bytes"
        if self.is_list:
            return "a list of texts"
        return {int: "a whole number", float: "a number", bool: "true or false"}.get(self.type, "a text")


class Source(NamedTuple):
    """Where a value is from."""

    kind: Literal["flag", "environment", "file", "default"]
    place: str = ""
    """The flag; the variable; the file and the line."""

    def __str__(self) -> str:
        return f"environment variable {self.place}" if self.kind == "environment" else self.place or self.kind


class Found(NamedTuple, Generic[C]):
    """What was read."""

    config: C
    sources: dict[str, Source]
    """Of every setting."""
    file: Path | None
    warnings: list[str]


def settings_of(kind: type[msgspec.Struct]) -> list[Setting]:
    """What can be set, in the order in which it is declared."""
    texts = _descriptions(kind)
    return [
        Setting(field.name, _bare(field.type), _default(field), texts.get(field.name, ""))
        for field in msgspec.structs.fields(kind)
    ]


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _bare(type: Any) -> Any:
    if get_origin(type) is Annotated:
        return _bare(get_args(type)[0])
    members = [each for each in get_args(type) if each is not NoneType]
    return _bare(members[0]) if NoneType in get_args(type) and len(members) == 1 else type


def _descriptions(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field. Python does not keep it, so it is read from the source."""
    import ast
    import inspect

    try:
        body = ast.parse(inspect.getsource(kind)).body[0]
    except (OSError, TypeError):
        return {}
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return texts


def read(
    kind: type[C],
    given: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: str | Path | None = None,
) -> Found[C]:
    """What is `given` and not None, then the environment, then the file, then the defaults.

    The file is `file`, else what PERDURE_CONFIG names, else `perdure.toml` in the working directory if it is there.
    Raises `Invalid` that says what is wrong, where, and what is allowed.
    """
    environ = os.environ if environ is None else environ
    settings = {each.name: each for each in settings_of(kind)}
    path = _file(file, environ)
    values, sources = {}, dict[str, Source]()
    layers: list[Iterable[tuple[str, Any, Source]]] = [
        _from_file(path, settings) if path is not None else (),
        _from_environment(environ, settings),
        [(name, value, Source("flag", settings[name].flag)) for name, value in (given or {}).items()],
    ]
    for layer in layers:
        for name, value, source in layer:
            if value is not None:
                values[name], sources[name] = _converted(settings[name], value, source), source
    try:
        config = kind(**values)
    except Invalid as error:
        named = [sources[name] for name in re.findall(r"\w+", error.message) if name in sources]
        places = ", ".join(dict.fromkeys(str(source) for source in named))
        raise Invalid(f"{places}: {error.message}" if places else error.message) from None
    sources = {name: sources.get(name, Source("default")) for name in settings}
    return Found(config, sources, path, _unknown_variables(environ, settings))


def _file(given: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    named = given or environ.get("PERDURE_CONFIG")
    if named:
        return Path(named)
    return Path(FILE) if Path(FILE).is_file() else None


def _from_file(path: Path, settings: Mapping[str, Setting]) -> Iterable[tuple[str, Any, Source]]:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        keys = tomllib.loads(text)
    except OSError as error:
        raise Invalid(f"{path}: the settings cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}: no TOML: {error}") from None
    for key, value in keys.items():
        place = f"{path}:{_line(text, key)}"
        if key not in settings:
            hint = nearest(key, settings)
            what = f"the table [{key}]; settings are not in tables" if isinstance(value, dict) else f"{key!r}"
            near = f"; the nearest is {hint}" if hint else "; `perdure config show` lists all there are"
            raise Invalid(f"{place}: unknown setting {what}{near}")
        yield key, value, Source("file", place)


def _line(text: str, key: str) -> int:
    pattern = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _from_environment(environ: Mapping[str, str], settings: Mapping[str, Setting]) -> Iterable[tuple[str, Any, Source]]:
    for setting in settings.values():
        text = environ.get(setting.variable)
        if text and not _is_of_kubernetes(setting.variable, text):
            yield setting.name, text, Source("environment", setting.variable)


def _unknown_variables(environ: Mapping[str, str], settings: Mapping[str, Setting]) -> list[str]:
    """A variable that is nearly a setting is a mistake; another may be meant for somebody else.

    Raises `Invalid` for the first, and has a line for each of the second.
    """
    known = [*(each.variable for each in settings.values()), *OTHER_VARIABLES]
    warnings = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or _is_of_kubernetes(name, environ[name]):
            continue
        hint = nearest(name, known, 0.85)
        if hint:
            raise Invalid(f"environment variable {name}: there is no such setting; the nearest is {hint}")
        warnings.append(f"environment variable {name} is not a setting, and has no effect")
    return warnings


def _is_of_kubernetes(name: str, value: str) -> bool:
    if name.endswith("_PORT") and _KUBERNETES_ADDRESS.fullmatch(value):
        return True
    return _KUBERNETES.fullmatch(name) is not None


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like it, if any is."""
    import difflib

    names = list(known)
    spelled = name.replace("-", "_")
    for each in names:
        if spelled.lower() == each.lower():
            return each
    return next(iter(difflib.get_close_matches(spelled, names, n=1, cutoff=cutoff)), None)


def _converted(setting: Setting, value: Any, source: Source) -> Any:
    """The value in the field's type. Texts stand for numbers, except in a file, which has numbers."""
    worded = value
    if setting.is_list and isinstance(value, str) and source.kind != "file":
        value = tuple(part for each in value.split(",") if (part := each.strip()))
    try:
        if isinstance(value, str) and setting.is_duration:
            value = _seconds(value)
        elif isinstance(value, str) and setting.is_size:
            value = _bytes(value)
        value = msgspec.convert(value, setting.type, strict=source.kind == "file")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(value)
    except (msgspec.ValidationError, ValueError, Invalid):
        shown = MASK if setting.is_secret else repr(worded)
        raise Invalid(f"{source}: {setting.name} must be {setting.allowed}, not {shown}") from None
    return value


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return parse_duration_ms(text) / 1000


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    factor = _BYTES.get(found.group(2).lower()) if found else None
    if found is None or factor is None:
        raise ValueError(text)
    return int(float(found.group(1)) * factor)


def masked(setting: Setting, value: Any) -> Any:
    """The value, unless it is a secret; a URL without the password in it."""
    if value and setting.is_secret:
        return MASK
    if isinstance(value, str):
        return _USERINFO.sub(rf"\1{MASK}@", value)
    return tuple(masked(setting, each) for each in value) if isinstance(value, tuple) else value


def written(setting: Setting, value: Any) -> str:
    """A value as TOML has it, durations and sizes with their units."""
    if setting.is_duration and value is not None and value * 1000 == int(value * 1000):
        value = format_duration(int(value * 1000))
    elif setting.is_size and value:
        unit = next((unit for unit in ("GiB", "MiB", "KiB") if value % _BINARY[unit.lower()] == 0), None)
        value = f"{value // _BINARY[unit.lower()]}{unit}" if unit else value
    return msgspec.json.encode(value).decode()
