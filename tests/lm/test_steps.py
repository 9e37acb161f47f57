"""Directions of modes in a weight and steps along them, against PyTorch in double precision."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_entk import InputError
from mlx_entk._parameters import flatten_tree
from mlx_entk.kernel import entk_operator
from mlx_entk.lm import LanguageModel
from mlx_entk.lm.contexts import Context
from mlx_entk.lm.held_out import first_tokens, other_windows, words_of
from mlx_entk.lm.model import hidden_before, layer_function, square_root_of_readout
from mlx_entk.lm.steps import (
    Above,
    Weight,
    input_direction,
    likeliest,
    log_mass_gradient,
    log_masses,
    mode_direction,
    perplexity,
    random_direction,
)
from mlx_entk.tracing.primitives import UntraceableError
from tests.lm.architectures import (
    ARCHITECTURES,
    LENGTH,
    VOCABULARY,
    in_mlx,
    last_hidden,
    make,
    weight_in_torch,
)
from tests.reference import relative_error

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

N, LAYER = 6, 1
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (N, LENGTH))
WORDS = [[3, 7, 30], [11], list(range(12, 20))]


class Both:
    """A trained model of an architecture, in MLX and in PyTorch in double precision."""

    def __init__(self, name: str, folder: Path):
        reference = make(name, trained=True)
        self.model = in_mlx(reference, folder)
        self.weight = Weight(self.model, LAYER, ARCHITECTURES[name])
        self.key, self.transposed = weight_in_torch(reference, self.weight.name, LAYER)
        self.torch = reference.double()
        self.value = dict(self.torch.named_parameters())[self.key].detach()
        self.tokens = torch.from_numpy(TOKENS)
        self.hidden = hidden_before(self.model, mx.array(TOKENS), LAYER, batch=N)
        self.last = Above(self.weight, self.hidden, last=True)
        self.whole = Above(self.weight, self.hidden, last=False)

    def stepped(self, direction: mx.array, dose: float) -> torch.Tensor:
        """The weight of PyTorch after a step."""
        u = torch.from_numpy(np.array(direction, dtype=np.float64))
        change: torch.Tensor = dose * self.value.norm() * (u.T if self.transposed else u)
        return torch.add(self.value, change)

    def logits(self, value: torch.Tensor) -> torch.Tensor:
        """At all positions, with another value of the weight."""
        given = {self.key: value}
        found: torch.Tensor = torch.func.functional_call(
            self.torch, given, (self.tokens,), {"use_cache": False}
        ).logits
        detached: torch.Tensor = found.detach()
        return detached

    def log_masses(self, value: torch.Tensor) -> np.ndarray[Any, Any]:
        """Of the sets of words at the last position."""
        chances = torch.log_softmax(self.logits(value)[:, -1], dim=-1)
        return torch.stack([chances[:, words].logsumexp(dim=-1) for words in WORDS]).numpy()


@pytest.fixture(params=ARCHITECTURES, scope="module")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(request.param, tmp_path_factory.mktemp(request.param))


def test_modes_have_orthonormal_directions_that_move_the_outputs_along_them(both: Both) -> None:
    model = both.model
    J = torch.func.jacrev(lambda w: last_hidden(both.torch, {both.key: w}, both.tokens))(both.value)
    if both.transposed:
        J = J.transpose(-1, -2)
    U = both.torch.get_output_embeddings().weight.detach().numpy()
    values, vectors = np.linalg.eigh(U.T @ U)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    rows = np.einsum("nip,ij->jnp", J.detach().flatten(2).numpy(), root)
    rows = rows.reshape(-1, both.value.numel())
    readout = square_root_of_readout(model.unembedding)
    function = layer_function(model, LAYER, [both.weight.name], readout)
    operator = entk_operator(function, both.hidden)
    eigenvalues, modes = np.linalg.eigh(rows @ rows.T)
    eigenvalues, modes = eigenvalues[::-1][:6], modes[:, ::-1][:, :6]

    found = [mode_direction(operator, modes[:, k], eigenvalues[k]) for k in range(6)]

    flat = np.stack([np.array(u, dtype=np.float64).ravel() for u in found])
    np.testing.assert_allclose(flat @ flat.T, np.eye(6), atol=2e-5)
    moved = rows @ flat.T
    assert relative_error(moved, modes * np.sqrt(eigenvalues)) < 1e-4
    with pytest.raises(InputError, match="is not one of this model and these windows"):
        mode_direction(operator, random_vector(operator.shape[0]), eigenvalues[0])
    with pytest.raises(InputError, match="entries, not shape"):
        mode_direction(operator, modes[:-1, 0], eigenvalues[0])
    with pytest.raises(InputError, match="only a positive one"):
        mode_direction(operator, modes[:, 0], 0.0)


def random_vector(size: int) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(1).standard_normal(size)
    return np.asarray(drawn / np.linalg.norm(drawn))


@pytest.mark.parametrize("dose", [0.0, 0.3, -1.5])
def test_what_a_step_does_is_what_pytorch_gets_with_the_changed_weight(
    both: Both, dose: float
) -> None:
    weight, tokens = both.weight, mx.array(TOKENS)
    direction = random_direction(tuple(weight.value.shape), (0,))
    changed, reference = weight.stepped(direction, dose), both.stepped(direction, dose)

    masses = log_masses(both.last, changed, [mx.array(words) for words in WORDS])
    found = [perplexity(both.whole, changed, tokens, ahead) for ahead in (0, 2)]
    top = likeliest(both.last, changed, 3)

    np.testing.assert_allclose(masses, both.log_masses(reference), rtol=2e-4, atol=2e-4)
    logits = both.logits(reference)
    for ahead, value in zip((0, 2), found, strict=True):
        first = max(1, ahead)
        losses = torch.nn.functional.cross_entropy(
            logits[:, first - 1 : -1].flatten(0, 1), both.tokens[:, first:].flatten()
        )
        assert value == pytest.approx(float(losses.exp()), rel=2e-4)
    chances, order = torch.softmax(logits[:, -1], dim=-1).sort(descending=True)
    for window, pairs in enumerate(top):
        assert [token for token, _ in pairs] == order[window, :3].tolist()
        np.testing.assert_allclose([p for _, p in pairs], chances[window, :3], rtol=1e-3)


def test_first_order_predictions_are_finite_differences_of_pytorch(both: Both) -> None:
    weight = both.weight
    shares = np.array([0.5, 0, 0.25, 0, 0, 0.25])
    for number, words in enumerate(WORDS):
        gradient = log_mass_gradient(weight, both.hidden, mx.array(words), shares)
        for seed in range(3):
            direction = random_direction(tuple(weight.value.shape), (seed,))
            predicted = weight.norm * (gradient * np.array(direction, dtype=np.float64)).sum()
            # Of fourth order: transformers rounds its norms to single precision, so that the steps
            # may not be too small.
            near, far = (
                shares @ np.subtract(*(
                    both.log_masses(both.stepped(direction, sign * dose))[number]
                    for sign in (1, -1)
                ))
                for dose in (1e-2, 2e-2)
            )  # fmt: skip
            measured = (8 * near - far) / 12e-2
            scale = weight.norm * np.linalg.norm(gradient) / np.sqrt(gradient.size)
            assert abs(predicted - measured) <= 1e-3 * max(abs(measured), scale)


def test_the_weight_is_put_back_also_after_an_error(both: Both) -> None:
    weight = both.weight
    before = flatten_tree(both.model.module.parameters())
    changed = weight.value + 1

    with pytest.raises(InputError, match="has shape"):
        weight.states(changed[:1], both.hidden, last=True)
    with pytest.raises(ValueError, match="must have the same size"):
        weight.states(changed, both.hidden[..., :5], last=True)
    with pytest.raises(ValueError, match="must have the same size"):
        log_mass_gradient(weight, both.hidden[..., :5], mx.array([1]), np.ones(N))
    log_masses(both.last, changed, [mx.array([1])])

    after = flatten_tree(both.model.module.parameters())
    assert list(after) == list(before)
    assert all(after[name] is value for name, value in before.items())


def test_a_model_that_cannot_be_traced_runs_whole(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untraceable(*arguments: object) -> None:
        raise UntraceableError("no graph")

    changed = both.weight.stepped(random_direction(tuple(both.weight.value.shape), (0,)), 0.5)
    monkeypatch.setattr("mlx_entk.lm.steps.record", untraceable)
    for last, traced in ((True, both.last), (False, both.whole)):
        whole = Above(both.weight, both.hidden, last)
        for a, b in zip(whole.states(changed), traced.states(changed), strict=True):
            np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-4, atol=1e-5)
    assert all(stages is not None for stages in both.last._stages.values())


def test_logits_that_overflow_cost_an_infinite_perplexity(both: Both) -> None:
    broken = mx.full(both.weight.value.shape, float("nan"))

    assert perplexity(both.whole, broken, mx.array(TOKENS), 0) == float("inf")


def test_controls_have_norm_1_and_the_sides_they_claim() -> None:
    random = np.random.default_rng(0)
    directions = [random.standard_normal((5, 8)) for _ in range(3)]
    directions = [u / np.linalg.norm(u) for u in directions]
    components = np.linalg.qr(random.standard_normal((8, 4)))[0].T
    values = [9.0, 4.0, 1.0]
    known = [
        (value, mx.array(u.astype(np.float32))) for value, u in zip(values, directions, strict=True)
    ]

    found, number = input_direction(known[1][1], components, known)

    array = np.array(found, dtype=np.float64)
    assert np.linalg.norm(array) == pytest.approx(1, rel=1e-6)
    U, singular, V = np.linalg.svd(array)
    assert singular[1] < 1e-6
    reads = [np.linalg.norm(directions[1] @ c) for c in components]
    assert number == int(np.argmax(reads))
    c = components[number]
    assert abs(V[0] @ c) == pytest.approx(1, rel=1e-6)

    def moved(b: np.ndarray[Any, Any]) -> float:
        return sum(v * float(b @ u @ c) ** 2 for v, u in zip(values, directions, strict=True))

    others = random.standard_normal((2000, 5))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert all(moved(b) <= moved(U[:, 0]) * (1 + 1e-6) for b in others)
    drawn = np.array(random_direction((5, 8), (3, 1)), dtype=np.float64)
    assert np.linalg.norm(drawn) == pytest.approx(1, rel=1e-6)
    assert np.array_equal(drawn, np.array(random_direction((5, 8), (3, 1)), dtype=np.float64))
    assert abs((drawn * np.array(random_direction((5, 8), (3, 2)))).sum()) < 0.6


LETTERS = "abcdefghijklmnopqrstuvwxyz "


class Spelling:
    """A tokenizer with a token for each letter, and another for each letter after a space."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        tokens, place = [], 0
        while place < len(text):
            spaced = text[place] == " " and text[place + 1 : place + 2].isalpha()
            place += spaced
            tokens.append(LETTERS.index(text[place]) + 30 * spaced)
            place += 1
        return tokens

    def decode(self, tokens: list[int]) -> str:
        return "".join((" " if t >= 30 else "") + LETTERS[t % 30] for t in tokens)


def spelling(prefers: Callable[[int], bool]) -> LanguageModel:
    """A model that finds some tokens likely, whatever it reads."""
    likely = mx.array([float(prefers(token)) for token in range(60)])
    model: Any = SimpleNamespace(
        tokenizer=Spelling(),
        logits=lambda state: mx.broadcast_to(likely, (state.shape[0], 60)),
    )
    return cast(LanguageModel, model)


@pytest.mark.parametrize("spaced", [True, False])
def test_a_word_begins_with_the_likelier_of_its_two_tokens(spaced: bool) -> None:
    words = ["cat", "", "dog", "cow"]
    contexts = [Context((1, 2), "", word, {}) for word in words]

    model = spelling(lambda token: (token >= 30) == spaced)
    found = first_tokens(model, contexts, mx.zeros((4, 1)))

    shift = 30 if spaced else 0
    assert found == [shift + 2, None, shift + 3, shift + 2]
    assert words_of(found, np.array([True, True, False, True])) == [shift + 2]
    assert words_of(found, np.array([True, False, True, True])) == [shift + 2, shift + 3]


def test_other_windows_share_no_passage_with_the_contexts() -> None:
    random = np.random.default_rng(0)
    text = "".join(np.array(list(LETTERS[:26]))[random.integers(0, 26, 4000)])
    spaced = " ".join(text[i : i + 5] for i in range(0, 4000, 5))
    encode = Spelling().encode
    own = encode(spaced)
    used = [tuple(own[i : i + 20]) for i in range(0, 1500, 20)]
    contexts = [Context(tokens, "", "", {}) for tokens in used]

    windows = np.array(other_windows([spaced], encode, contexts, (59,), 8, seed=0))

    assert windows.shape == (8, 21)
    assert (windows[:, 0] == 59).all()
    for row in windows[:, 1:].tolist():
        # The first letter of a piece has no space before it.
        begin = next(i for i in range(len(own)) if own[i + 1 : i + 20] == row[1:])
        assert begin > 1500 - 12
    assert len({tuple(row) for row in windows.tolist()}) == 8
    again = np.array(other_windows([spaced], encode, contexts, (59,), 8, seed=0))
    assert np.array_equal(again, windows)
    with pytest.raises(InputError, match=r"tokens that share nothing .* give more"):
        other_windows([spaced], encode, contexts, (), 80, seed=0)
