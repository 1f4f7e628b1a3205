"""Commands with their options in panels, and with options from a YAML file."""

import json
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from ..config_file import OPTION, option_words, read_config, split_config
from .output import beside_progress_bars

_NAMES = {
    "Models": "teacher student model processor revision trust_remote_code finetune_teacher teacher_head demo device",
    "Data": "dataset dataset_config split samples text text_pair max_length batch_size num_workers rows_per_shard",
    "Explanation": "explainer explainer_options explanation target comparison_grid held_out faithfulness control top "
    "top_k chance vectors dtype",
    "Requirements": "require on baseline junit",
    "Output": "output output_dir pictures card as_json report export export_space",
    "Publishing": "push push_to_hub private repo_id name license_ language tag",
}
_ENDS: dict[str, tuple[str, ...]] = {"Models": ("_revision",), "Data": ("_column", "_columns")}
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
PANELS = tuple(_NAMES)
"""Heads of the options' sections, in their order; others follow as "Options"."""


class Command(TyperCommand):
    """A command whose help lists its options by panels, and which takes options from `--config FILE.yaml`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the arguments, and the options by panel."""
        sections: dict[str, list[tuple[str, str]]] = {head: [] for head in ("Arguments", *PANELS, "Options")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                sections["Arguments" if is_argument else panel_of(str(parameter.name))].append(record)
        sections["Options"].insert(0, (f"{OPTION} FILE.yaml", "Options by name; those of the command line override."))
        for head, records in sections.items():
            if records:
                with formatter.section(head):
                    formatter.write_dl(records)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """List the parts of the usage's line, without hidden arguments."""
        pieces = [] if self.options_metavar is None else [self.options_metavar]
        shown = [each for each in self.get_params(ctx) if not getattr(each, "hidden", False)]
        return pieces + [piece for parameter in shown for piece in parameter.get_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the files that --config names, and then the command line, which overrides them."""
        try:
            files, args = split_config(args)
            options: dict[str, Any] = {}
            for file in files:
                options |= read_config(file, None if ctx.ignore_unknown_options else self._named())
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx) from error
        given = {word.partition("=")[0] for word in args}
        words = [
            word
            for name, value in options.items()
            # A list of the command line takes the place of the file's, and isn't added to it.
            if not given & self._spellings(name)
            for word in self._words(ctx, name, value)
        ]
        return super().parse_args(ctx, [*words, *args])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it warns of doesn't break its progress bars."""
        with beside_progress_bars((ctx.find_object(dict) or {}).get("debug", False)):
            return super().invoke(ctx)

    def _named(self) -> dict[str, Any]:
        """Map the names that a file may have to the parameters: options without dashes, and arguments."""
        named: dict[str, Any] = {}
        for parameter in self.params:
            if parameter.param_type_name == "argument":
                named |= {} if getattr(parameter, "hidden", False) else {str(parameter.name): parameter}
            else:
                options = [option for option in parameter.opts if option.startswith("--")]
                named |= {option[2:].replace("-", "_"): parameter for option in options}
        return named

    def _spellings(self, name: str) -> set[str]:
        """Spellings of an option on the command line."""
        parameter = self._named().get(name)
        if parameter is None:  # of a parser behind this one
            return {f"--{name}", f"--{name.replace('_', '-')}", f"--no_{name}"}
        return {*parameter.opts, *parameter.secondary_opts}

    def _words(self, ctx: Any, name: str, value: Any) -> list[str]:
        """Write an option of a file as words; an argument becomes the default that a command line may override."""
        parameter = self._named().get(name)
        if parameter is None:
            return option_words(name, value)
        several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
        values = value if isinstance(value, list) and several else [value]
        if any(isinstance(each, list) for each in values):
            raise typer.BadParameter(f"'{name}' takes one value, not {value}.", ctx=ctx)
        words = [json.dumps(each) if isinstance(each, Mapping) else str(each) for each in values]
        if parameter.param_type_name == "argument":
            ctx.default_map = {**(ctx.default_map or {}), name: words if several else words[0]}
            return []
        if getattr(parameter, "is_flag", False):
            if (is_on := _SWITCHES.get(str(value).lower())) is None:
                raise typer.BadParameter(f"'{name}' is true or false, not {value!r}.", ctx=ctx)
            return [parameter.opts[0]] if is_on else list(parameter.secondary_opts[:1])
        return [each for word in words for each in (parameter.opts[0], word)]


def panel_of(name: str) -> str:
    """Return the head of the section in which an option is listed.

    Example:
        >>> panel_of("student_revision"), panel_of("id_column"), panel_of("port")
        ('Models', 'Data', 'Options')
    """
    for head, names in _NAMES.items():
        if name in names.split() or name.endswith(_ENDS.get(head, ())):
            return head
    return "Options"
