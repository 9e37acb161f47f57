"""One call from a model and its inputs to an analysis that can be looked at, saved and shared.

``analyze`` does in memory what ``mlx-entk kernel`` does in a run folder, with the same settings and
the same code; ``Analysis.save`` and ``Analysis.load`` go from one to the other.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from markupsafe import Markup

from mlx_entk._files import Arrays, read_arrays, write_atomically, write_text
from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, as_columns, as_floats
from mlx_entk._memory import limit_in_bytes
from mlx_entk._parameters import flatten_tree
from mlx_entk._records import to_json
from mlx_entk._text import visible
from mlx_entk.analysis import WHOLE, with_whole
from mlx_entk.cliffs import Cliff
from mlx_entk.controls import Controls
from mlx_entk.errors import InputError
from mlx_entk.features import Method
from mlx_entk.kernel import Reduction, entk, layerwise_entk
from mlx_entk.onnx.files import read_model
from mlx_entk.plotting import Drawing
from mlx_entk.progress import Progress, Wanted, shown
from mlx_entk.report import (
    Draw,
    ModeBrowser,
    Table,
    browser_page,
    drawn,
    ends,
    fragment,
    inputs_html,
    modes_cell,
    unexplained_table,
)
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes, Spectrum, require_modes
from mlx_entk.studies.kernel.modes import mode_browser
from mlx_entk.studies.kernel.show import alignment_figure, spectra_figure, summary, tables
from mlx_entk.studies.kernel.sources import (
    import_graph,
    inputs_on_host,
    original_inputs,
    stored_weights,
)
from mlx_entk.studies.kernel.study import (
    IMPORTED,
    KernelAlignment,
    KernelConfig,
    KernelResults,
    analyzed,
    bound,
    keep_graph,
    prepare,
)
from mlx_entk.studies.reporting import MODES, write_report
from mlx_entk.studies.words import kernel_name
from mlx_entk.tracing.functions import Model, Output, ParametricFunction, Selection, bind
from mlx_entk.tracing.inputs import Inputs

if TYPE_CHECKING:
    import pandas

# The family of features that come as one array without a name.
_UNNAMED = "features"
# Rows of an alignment that a summary in a notebook or a terminal shows.
_MOST_ROWS = 12
_DEFAULTS = KernelConfig("")


def analyze(
    model: Model | str | Path,
    x: Any,
    features: Mapping[str, ArrayLike] | ArrayLike | None = None,
    *,
    params: Any = None,
    reduction: Reduction = _DEFAULTS.reduction,
    by_layer: bool = _DEFAULTS.by_layer,
    top: int = _DEFAULTS.top,
    groups: Sequence[Modes] = _DEFAULTS.groups,
    output: Output | None = None,
    parameters: Selection | None = None,
    initial: Model | Mapping[str, Any] | str | Path | None = None,
    controls: bool = _DEFAULTS.controls,
    factors: bool = _DEFAULTS.factors,
    disentangle: Method | None = _DEFAULTS.disentangle,
    memory_limit: int | str | None = None,
    progress: Wanted = None,
) -> "Analysis":
    """Find what the eNTK of a model sees: its spectrum, cliffs, and the features in its modes.

    Parameters
    ----------
    model
        An ``mlx.nn.Module``, a function with ``params``, what ``mlx_entk.onnx.load`` gives, or the
        path of an ONNX file.
    x
        N inputs, batch first: an array, or several as a tuple or a dictionary.
    features
        What may be in the modes: families over the inputs by name, shapes (N,) or (N, k), or one
        such array.
    params
        The parameter tree of a function.
    reduction
        How the class axes of the kernel are reduced, as for ``mlx_entk.entk``.
    by_layer
        Whether to analyse the kernel of each parameter as well as the whole kernel.
    top
        How many modes to keep.
    groups
        Groups of modes (first, last) to report in addition to those that end at a cliff.
    output
        Which part of what the model returns counts, as for ``mlx_entk.entk``; for an ONNX file,
        the name of an output.
    parameters
        Which parameters count: names, or patterns such as ``"layers.*"``.
    initial
        The model before training, to compare with: one like ``model``, or its parameters by name.
    controls
        Whether to compare with activations and outputs alone, and with shuffled features.
    factors
        Whether to say which factor of each layer's kernel holds a family.
    disentangle
        How to rotate each group of modes to directions that nobody named
        (``mlx_entk.features.disentangle``); None for not at all.
    memory_limit
        Bytes for forming the kernels, as for ``mlx_entk.entk``.
    progress
        True for bars, False for nothing, None for bars in a terminal or a notebook. A function is
        called as ``mlx_entk.progress.Progress``; a class such as ``tqdm.tqdm`` makes the bars.

    Raises
    ------
    InputError
        For a model that cannot be called on x, and for settings that do not fit; the message says
        what to do.

    Examples
    --------
    >>> analysis = mlx_entk.analyze(model, x, {"parity": parity})
    >>> analysis.plot()
    >>> analysis.modes(1, 8)
    >>> analysis.examples(1)
    >>> analysis.report("out.html")
    """
    bank = _families(features)
    given, graph, x = _subject(model, x, params, output, parameters)
    before = None if initial is None else _before(initial, given, x, output, parameters)
    config = prepare(
        KernelConfig(
            _label(model),
            reduction,
            by_layer,
            top,
            "" if output is None or callable(output) else str(output),
            "" if parameters is None or callable(parameters) else _patterns(parameters),
            groups=tuple(groups),
            controls=controls,
            factors=factors,
            disentangle=disentangle,
        ),
        given,
        x,
        bank,
        before,
    )
    limit = None if memory_limit is None else limit_in_bytes(memory_limit)
    with shown(progress) as update:
        return in_memory(
            config, given, x, bank, before, graph=graph, memory_limit=limit, progress=update
        )


def in_memory(
    config: KernelConfig,
    model: Model,
    x: Any,
    features: Mapping[str, FloatArray],
    before: Model | None,
    *,
    graph: bytes | None,
    memory_limit: int | None,
    progress: Progress,
) -> "Analysis":
    """Compute what ``mlx_entk.studies.kernel.study.compute`` does, without a folder.

    Parameters
    ----------
    config
        As ``prepare`` gives it.
    model, x, features, before, graph, memory_limit
        As for ``compute``, where ``before`` is called ``initial``.
    """
    function, inputs = bound(config, model, x)
    kernels = _kernels(config, function, inputs, memory_limit, progress)
    then = None
    if before is not None:
        then = _kernels(config, *bound(config, before, x), memory_limit, progress)
    results, arrays = analyzed(
        config,
        function,
        inputs,
        kernels,
        features,
        then,
        memory_limit=memory_limit,
        progress=progress,
    )
    return Analysis(results, arrays, inputs_on_host(x), kernels, _Source(model, graph))


def _kernels(
    config: KernelConfig,
    function: ParametricFunction,
    inputs: Inputs,
    limit: int | None,
    progress: Progress,
) -> dict[str, FloatArray]:
    given: dict[str, Any] = {
        "reduction": config.reduction,
        "memory_limit": limit,
        "progress": progress,
    }
    if config.by_layer:
        return with_whole(layerwise_entk(function, inputs, **given))
    return {WHOLE: entk(function, inputs, **given)}


def _families(features: Mapping[str, ArrayLike] | ArrayLike | None) -> dict[str, FloatArray]:
    if features is None:
        return {}
    named = features if isinstance(features, Mapping) else {_UNNAMED: features}
    return {name: _columns(family, f"features {visible(name)}") for name, family in named.items()}


def _columns(family: ArrayLike, name: str) -> FloatArray:
    values = as_floats(family, name)
    return as_columns(values[:, None] if values.ndim == 1 else values, name)


def _is_file(model: object) -> bool:
    return isinstance(model, str | Path)


def _subject(
    model: Any, x: Any, params: Any, output: Output | None, parameters: Selection | None
) -> tuple[nn.Module | ParametricFunction, bytes | None, Any]:
    """A module, or a function of the parameters that count; its graph; and the inputs it takes."""
    if _is_file(model):
        if output is not None and not isinstance(output, str):
            raise InputError(f"output is {output!r}: pass the name of an output of the ONNX file")
        if callable(parameters):
            raise InputError("parameters of an ONNX file are names or patterns, no function")
        graph = read_model(Path(model))
        chosen = "" if parameters is None else _patterns(parameters)
        return import_graph(graph, output or "", chosen), graph.SerializeToString(), x
    if hasattr(model, "parametric"):  # what mlx_entk.onnx.load gives
        model = model.parametric()
    plain = not callable(output) and not callable(parameters)
    if isinstance(model, nn.Module) and params is None and plain:
        return model, None, x
    function, inputs = bind(model, x, params, output, parameters)
    return function, None, inputs if len(inputs) > 1 else inputs[0]


def _before(
    initial: Any,
    model: nn.Module | ParametricFunction,
    x: Any,
    output: Output | None,
    parameters: Selection | None,
) -> nn.Module | ParametricFunction:
    """The model before training."""
    if not isinstance(initial, Mapping) or isinstance(initial, nn.Module):
        return _subject(initial, x, None, output, parameters)[0]
    weights = flatten_tree(dict(initial))
    if isinstance(model, nn.Module):
        function = bind(
            model, x, None, None if callable(output) else output, parameters=parameters
        )[0]
    else:
        function = model
    missing = sorted(function.params.keys() - weights.keys())
    if missing:
        raise InputError(f"initial has no {visible(missing[0])}: pass every parameter by its name")

    def apply(values: Mapping[str, mx.array], *inputs: mx.array) -> mx.array:
        return function.apply({**weights, **values}, *inputs)

    return ParametricFunction({name: weights[name] for name in function.params}, apply)


def _patterns(parameters: Any) -> str:
    return parameters if isinstance(parameters, str) else ",".join(map(str, parameters))


def _label(model: Any) -> str:
    if _is_file(model):
        return Path(model).name
    named = model if hasattr(model, "__qualname__") else type(model)
    return visible(str(getattr(named, "__qualname__", named)))


@dataclass(frozen=True)
class _Source:
    """A model as it was given, and the ONNX graph that it comes from, if there is one."""

    model: Model
    graph: bytes | None


@dataclass(frozen=True, repr=False)
class Analysis:
    """What the eNTK of a model shows; notebooks display it.

    Attributes
    ----------
    results
        All findings as plain records, as ``results.json`` of a run folder has them.
    arrays
        By name: ``values/KERNEL``, ``vectors/KERNEL`` and ``shares/KERNEL``, how much of each mode
        lies in each family.
    inputs
        The inputs, by name.
    kernels
        The kernels by name, ``"full"`` for the whole one; empty for an analysis that was loaded.
    """

    results: KernelResults
    arrays: Arrays
    inputs: Arrays
    kernels: Mapping[str, FloatArray] = field(default_factory=dict)
    _source: _Source | None = None
    _folder: Path | None = None

    @property
    def config(self) -> KernelConfig:
        """The settings."""
        return self.results.config

    @cached_property
    def spectra(self) -> dict[str, Spectrum]:
        """Leading eigenpairs by kernel."""
        return {name: self._spectrum(name) for name in self.results.cliffs}

    def _spectrum(self, kernel: str) -> Spectrum:
        values = np.asarray(self.arrays[f"values/{kernel}"], dtype=np.float64)
        vectors = np.asarray(self.arrays[f"vectors/{kernel}"], dtype=np.float64)
        # Runs of earlier versions do not say.
        floor = float(self.arrays.get(f"noise floor/{kernel}", 0.0))
        return Spectrum(values, vectors, floor)

    @property
    def spectrum(self) -> Spectrum:
        """Leading eigenpairs of the whole kernel."""
        return self.spectra[WHOLE]

    @property
    def cliffs(self) -> list[Cliff]:
        """Cliffs of the whole kernel; ``results.cliffs`` has those of all."""
        return self.results.cliffs[WHOLE]

    @property
    def groups(self) -> list[Modes]:
        """The groups of modes of the whole kernel that are aligned with features."""
        rows = [row.modes for row in self.alignment if row.kernel == WHOLE]
        return list(dict.fromkeys([*(cliff.modes for cliff in self.cliffs), *rows]))

    @property
    def alignment(self) -> list[KernelAlignment]:
        """A row for each kernel, group of modes and family."""
        return self.results.alignment

    @property
    def controls(self) -> Controls:
        """What activations and outputs alone hold of the families."""
        return self.results.controls

    @property
    def found(self) -> str:
        """What was found, in a few sentences."""
        return " ".join(summary(self.results))

    def plot(self) -> Drawing:
        """Draw the spectrum of every kernel with its cliffs, as a matplotlib figure."""
        return spectra_figure(self.results, self.arrays).drawing

    def plot_alignment(self) -> Drawing:
        """Draw the overlap of groups of modes and families, with chance and controls.

        Raises
        ------
        InputError
            If there are no features.
        """
        if not self.alignment:
            raise InputError("nothing is aligned: pass features to mlx_entk.analyze")
        return alignment_figure(self.results).drawing

    def modes(self, first: int, last: int | None = None, *, kernel: str = WHOLE) -> "ModeGroup":
        """The modes from ``first`` to ``last``, both included and counted from 0.

        Raises
        ------
        InputError
            For modes that were not kept, and a kernel that there is not.
        """
        spectrum = self._of(kernel)
        group = (first, first if last is None else last)
        require_modes(group, spectrum.values.size, "the analysis")
        held = slice(group[0], group[1] + 1)
        shares = self.arrays.get(f"shares/{kernel}")
        return ModeGroup(
            kernel,
            group,
            spectrum.values[held],
            spectrum.vectors[:, held],
            {}
            if shares is None
            else dict(
                zip(
                    self.results.mode_features,
                    np.asarray(shares, dtype=np.float64)[held].sum(axis=0).tolist(),
                    strict=True,
                )
            ),
            [row for row in self.alignment if (row.kernel, row.modes) == (kernel, group)],
            self.controls,
        )

    def examples(
        self, mode: int, count: int = 8, *, kernel: str = WHOLE, draw: Draw | None = None
    ) -> "Examples":
        """The inputs at which a mode is largest, and those at which it is smallest.

        The sign of a mode is arbitrary: only that its ends are opposite means something.

        Parameters
        ----------
        count
            Inputs at each end.
        draw
            What a notebook draws them as, as for ``browse``.
        """
        vector = self.modes(mode, kernel=kernel).vectors[:, 0]
        top, bottom = ends(vector, count)
        return Examples(
            kernel,
            mode,
            _places(top, vector),
            _places(bottom, vector),
            vector.size,
            self.results.inputs,
            self.inputs,
            draw,
        )

    def _of(self, kernel: str) -> Spectrum:
        if kernel not in self.spectra:
            raise InputError(
                f"there is no kernel {visible(kernel)}: there are {', '.join(self.spectra)}; "
                "by_layer=True analyses that of each parameter"
            )
        return self.spectra[kernel]

    def to_pandas(self) -> "pandas.DataFrame":
        """The alignment as a table: a row for each kernel, group of modes and family.

        Raises
        ------
        InputError
            If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame([self._record(row) for row in self.alignment])

    def _record(self, row: KernelAlignment) -> dict[str, Any]:
        best, margin = self.controls.best(row), self.controls.margin(row)
        return {
            "kernel": kernel_name(row.kernel),
            "first": row.modes[0],
            "last": row.modes[1],
            "family": row.family,
            "overlap": row.overlap,
            "dimension": row.dimension,
            "percent": row.percent,
            "chance_percent": row.chance_percent,
            "shuffled": row.shuffled,
            "before_training_percent": row.initial_percent,
            "control": None if best is None else best.control,
            "control_percent": None if best is None else best.percent,
            "margin": margin,
        }

    def save(self, path: str | Path) -> Path:
        """Write a run folder with a report, for ``mlx-entk show``, ``regress`` and the others.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            If the folder holds something else, or cannot be written.
        """
        from mlx_entk.studies.kernel import STUDY

        path = Path(path)
        if self._folder is not None:
            if path.exists():
                raise InputError(f"{path} exists: name a new folder")
            shutil.copytree(self._folder, path)
            return path
        assert self._source is not None
        run = Run.create(path, STUDY.name, to_json(self.config))
        with run.session():
            if not run.finished:
                STUDY.save(self.config, run, self._kept(run, self._source), self.arrays)
            write_report(run)
        return path

    def _kept(self, run: Run, source: _Source) -> KernelResults:
        """The results, once model and inputs are in the run folder."""
        given = original_inputs({name: mx.array(value) for name, value in self.inputs.items()})
        run.save_model(stored_weights(source.model), self.inputs)
        if source.graph is not None:
            graph = source.graph
            write_atomically(run.graph_file(IMPORTED), lambda file: file.write_bytes(graph))
            return self.results
        function, inputs = bound(self.config, source.model, given)
        return replace(self.results, graph=keep_graph(self.config, function, inputs, run))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open what ``save`` or ``mlx-entk kernel --out`` wrote.

        Raises
        ------
        InputError
            If the folder is no finished run of a kernel, or is damaged.
        """
        from mlx_entk.studies.kernel import STUDY

        run = Run.load(Path(path))
        if run.study != STUDY.name:
            raise InputError(f"{path} is a {run.study} run: only those of `mlx-entk kernel` load")
        run.require_finished()
        return cls(
            STUDY.results_of(run), run.arrays, read_arrays(run.inputs_file), _folder=run.path
        )

    def report(self, path: str | Path) -> Path:
        """Write the report as an HTML file, which opens offline.

        The page of modes that it links to is written beside it, as ``NAME-modes.html``.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        path = Path(path)
        modes = f"{path.stem}-modes.html"
        with TemporaryDirectory() as folder:
            run = self.save(Path(folder) / (path.stem or "report"))
            text = (run / "report.html").read_text(encoding="utf-8")
            pages = (run / MODES).read_text(encoding="utf-8") if (run / MODES).exists() else None
        if pages is not None:
            text = text.replace(f'href="{MODES}"', f'href="{modes}"')
            write_text(path.with_name(modes), pages)
        write_text(path, text)
        return path

    def browse(
        self, path: str | Path, *, draw: Draw | None = None, names: Sequence[str] = ()
    ) -> Path:
        """Write a page to browse the modes, with the inputs at their ends, as one HTML file.

        Parameters
        ----------
        draw
            What the inputs are drawn as, as for ``mlx_entk.report.drawn``: ``"images"``, …, or a
            function of one input. By default what they look like.
        names
            A name for each input, such as its label.

        Raises
        ------
        InputError
            If the inputs cannot be drawn, are too many for a page, or the file cannot be written.
        """
        path = Path(path)
        write_text(path, browser_page(self._page_of_modes(draw, names)))
        return path

    def _page_of_modes(self, draw: Draw | None = None, names: Sequence[str] = ()) -> ModeBrowser:
        return mode_browser(self.results, self.arrays, self.inputs, draw, names)

    @property
    def unexplained(self) -> Table:
        """The modes of the whole kernel above its noise floor that no family explains.

        Each has its best family beside chance, and the inputs at its ends. The rule is in the note
        of the table; without features there is nothing to go by, which the note says.

        Raises
        ------
        InputError
            For an analysis that an earlier version saved.
        """
        return unexplained_table(self._page_of_modes())

    @property
    def tables(self) -> list[Table]:
        """What was found, as tables for people to read; the first one is the overview."""
        return tables(self.results)

    def __repr__(self) -> str:
        config = self.config
        lines = [f"Analysis of {config.model}: {self.found}"]
        best = sorted(
            (row for row in self.alignment if row.kernel == WHOLE),
            key=lambda row: row.chance_percent - row.percent,
        )
        lines += [
            f"  modes {modes_cell(row.modes)}: {visible(row.family, 40)} {row.percent:.0f}%, "
            f"by chance {row.chance_percent:.0f}%"
            for row in best[:_MOST_ROWS]
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return fragment(self.found, self.tables[1:3], [spectra_figure(self.results, self.arrays)])


@dataclass(frozen=True, repr=False)
class ModeGroup:
    """A group of modes of one kernel.

    Attributes
    ----------
    kernel, modes
        The kernel's name; the first and the last mode.
    values, vectors
        Eigenvalues, shape (k,); and eigenvectors, shape (N, k).
    shares
        How much of the modes lies in each family, ‖QᵀF‖_F², from 0 to k.
    alignment
        The rows of the analysis on this group; empty for a group that it does not report.
    controls
        Those of the analysis.
    """

    kernel: str
    modes: Modes
    values: Float64Array
    vectors: Float64Array
    shares: Mapping[str, float]
    alignment: Sequence[KernelAlignment]
    controls: Controls

    def _table(self) -> Table:
        rows = {row.family: row for row in self.alignment}
        size = self.values.size
        cells = [
            (
                family,
                f"{share:.2f}",
                f"{rows[family].chance:.2f}" if family in rows else "",
                f"{best.overlap:.2f}"
                if family in rows and (best := self.controls.best(rows[family])) is not None
                else "",
            )
            for family, share in sorted(self.shares.items(), key=lambda item: -item[1])
        ]
        note = (
            f"Of {size} at most. Chance and the best of activations and outputs alone are known "
            "for the groups that the analysis reports."
        )
        return Table(
            "Overlap with families", ("family", "overlap", "by chance", "best control"), cells, note
        )

    def __repr__(self) -> str:
        table = self._table()
        lines = [self._heading()]
        for family, *cells in table.rows:
            named = [f"{n} {c}" for n, c in zip(table.columns[1:], cells, strict=True) if c]
            lines.append(f"  {visible(family, 40)}: {', '.join(named)}")
        return "\n".join(lines)

    def _heading(self) -> str:
        values = f"{self.values[0]:.4g} to {self.values[-1]:.4g}"
        return f"{_title(self.kernel, self.modes)}: eigenvalues {values}"

    def _repr_html_(self) -> str:
        return fragment(self._heading(), [self._table()] if self.shares else [])


def _title(kernel: str, modes: Modes) -> str:
    many = "modes" if modes[0] != modes[1] else "mode"
    return f"{many.capitalize()} {modes_cell(modes)} of the {kernel_name(kernel)} kernel"


@dataclass(frozen=True)
class Example:
    """An input at one end of a mode.

    Attributes
    ----------
    input
        Its number.
    output
        For a full kernel, whose modes are over inputs and outputs, the output's number; else None.
    value
        Of the mode.
    """

    input: int
    output: int | None
    value: float

    @property
    def place(self) -> str:
        """Its number, and that of the output if there is one."""
        return str(self.input) if self.output is None else f"{self.input}, output {self.output}"


def _places(rows: Sequence[int], vector: Float64Array) -> list[tuple[int, float]]:
    return [(row, float(vector[row])) for row in rows]


@dataclass(frozen=True, repr=False)
class Examples:
    """The inputs at the two ends of a mode.

    Attributes
    ----------
    kernel, mode
        Of which mode.
    """

    kernel: str
    mode: int
    _largest: Sequence[tuple[int, float]]
    _smallest: Sequence[tuple[int, float]]
    _rows: int
    _count: int
    _inputs: Arrays
    _draw: Draw | None

    @property
    def largest(self) -> list[Example]:
        """The largest values first."""
        return [self._example(*place) for place in self._largest]

    @property
    def smallest(self) -> list[Example]:
        """The smallest values first."""
        return [self._example(*place) for place in self._smallest]

    def _example(self, row: int, value: float) -> Example:
        # A full kernel is flattened channel-major: row c·N + n.
        output = row // self._count if self._rows > self._count else None
        return Example(row % self._count, output, value)

    def _table(self) -> Table:
        rows = [
            ("largest" if k == 0 else "smallest", e.place, f"{e.value:.3g}", self._text(e))
            for k, end in enumerate((self.largest, self.smallest))
            for e in end
        ]
        title = f"Inputs at the ends of mode {self.mode} of the {kernel_name(self.kernel)} kernel"
        return Table(title, ("end", "input", "value", "what it is"), rows)

    def _text(self, example: Example) -> str:
        with np.printoptions(precision=3, threshold=12, edgeitems=4, linewidth=10**6):
            parts = [
                str(array[example.input]).replace("\n", " ") for array in self._inputs.values()
            ]
        return visible("; ".join(parts), 80)

    def __repr__(self) -> str:
        table = self._table()
        return "\n".join([table.title, *("  " + "  ".join(map(str, row)) for row in table.rows)])

    def _repr_html_(self) -> str:
        try:
            inputs = drawn(original_inputs(self._inputs), self._draw)
        except InputError:
            if self._draw is not None:
                raise
            return fragment("", [self._table()])  # such as inputs that are not finite
        ends_drawn = [
            Markup("<p><b>{}</b></p>{}").format(
                title,
                inputs_html(inputs, [e.input for e in found], [e.value for e in found]),
            )
            for title, found in (
                ("the largest values", self.largest),
                ("the smallest values", self.smallest),
            )
        ]
        return fragment(self._table().title) + str(Markup("").join(ends_drawn))
