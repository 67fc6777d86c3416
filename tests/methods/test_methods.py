"""What each method does differently, and that it does nothing differently where it should not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import given
from hypothesis import strategies as st

from fedpdiff.config import RunConfig
from fedpdiff.diffusion.denoiser import load_arrays, to_arrays
from fedpdiff.diffusion.networks import PRESETS, build_network
from fedpdiff.diffusion.training import train_denoiser
from fedpdiff.errors import ConfigError, DataError
from fedpdiff.methods import METHODS, round_method
from fedpdiff.methods.base import LocalRound
from fedpdiff.methods.fedavg import FedAvg
from fedpdiff.methods.fedddpm import FedDDPM, FedDDPMPlus
from fedpdiff.methods.feddiffuse import UDec, ULatDec, USplit
from fedpdiff.methods.feddm_quant import FedDMQuant
from fedpdiff.methods.fedprox import FedProx
from fedpdiff.methods.parts import PARTS, part_of
from fedpdiff.methods.weights import RunningAverage, check_weights, chosen

MakeNetwork = Callable[[], UNet2DModel]
MakeRound = Callable[..., LocalRound]


class PlainSGD(FedAvg):
    """FedAvg whose optimiser has no memory, so that nothing is lost between rounds."""

    make_optimizer = staticmethod(lambda parameters, rate: torch.optim.SGD(parameters, lr=rate))


def config(**changes: Any) -> RunConfig:
    return RunConfig.parse({key.replace("_", "-"): value for key, value in changes.items()})


def trained(
    method: FedAvg, make_network: MakeNetwork, local_round: MakeRound, through_arrays: bool = True
) -> dict[str, np.ndarray]:
    """Train one client for all rounds, its weights going through a message between them."""
    network, generator = make_network(), torch.Generator().manual_seed(5)
    for number in range(1, method.rounds + 1):
        method.fit(local_round(network, method.span(number), generator))
        if through_arrays:
            weights = to_arrays(network)
            network = make_network()
            load_arrays(network, weights)
    return to_arrays(network)


def centralised(make_network: MakeNetwork, local_round: MakeRound, optimizer: Any) -> dict[str, np.ndarray]:
    network = make_network()
    local = local_round(network, range(1, 7), torch.Generator().manual_seed(5))
    train_denoiser(
        network, local.chain, local.batches, local.settings, local.generator, make_optimizer=optimizer
    )
    return to_arrays(network)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


# -- degenerate cases coincide -------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 2, 3, 6])
def test_fedavg_with_one_client_is_centralised_training(
    rounds: int, make_network: MakeNetwork, local_round: MakeRound
) -> None:
    """Bit for bit: learning rate, batches and dropout go on as if there were no rounds."""
    method = PlainSGD(config(rounds=rounds, personal_steps=6))
    assert same(
        trained(method, make_network, local_round),
        centralised(make_network, local_round, PlainSGD.make_optimizer),
    )


def test_with_the_usual_optimiser_one_round_is_centralised_training(
    make_network: MakeNetwork, local_round: MakeRound
) -> None:
    one, three = (FedAvg(config(rounds=rounds, personal_steps=6)) for rounds in (1, 3))
    expected = centralised(make_network, local_round, FedAvg.make_optimizer)
    assert same(trained(one, make_network, local_round), expected)
    # a fresh optimiser in every round: its memory is not that of one training
    assert not same(trained(three, make_network, local_round), expected)


def test_fedprox_with_mu_zero_is_fedavg(make_network: MakeNetwork, local_round: MakeRound) -> None:
    prox, avg = (
        FedProx(config(proximal_mu=0, rounds=2, personal_steps=6)),
        FedAvg(config(rounds=2, personal_steps=6)),
    )
    assert same(trained(prox, make_network, local_round), trained(avg, make_network, local_round))


# -- FedProx -------------------------------------------------------------------------------------------------


def test_the_proximal_term_is_squared_and_differentiated(make_network: MakeNetwork) -> None:
    """mu / 2 |w - w_t|^2 and its gradient mu (w - w_t), which public code has got wrong."""
    network = make_network()
    penalty = FedProx(config(proximal_mu=0.3)).penalty(network)
    assert penalty is not None
    assert penalty(network).item() == 0
    generator = torch.Generator().manual_seed(1)
    moves = [torch.randn(p.shape, generator=generator) for p in network.parameters()]
    with torch.no_grad():
        for parameter, move in zip(network.parameters(), moves, strict=True):
            parameter += move
    value = penalty(network)
    value.backward()
    assert value.item() == pytest.approx(0.15 * sum(float(move.square().sum()) for move in moves), rel=1e-4)
    for parameter, move in zip(network.parameters(), moves, strict=True):
        assert torch.allclose(parameter.grad, 0.3 * move, atol=1e-5)


def test_a_large_mu_keeps_weights_near_what_was_received(
    make_network: MakeNetwork, local_round: MakeRound
) -> None:
    def distance(method: FedAvg) -> float:
        first, last = to_arrays(make_network()), trained(method, make_network, local_round)
        return sum(float(((last[name] - first[name]) ** 2).sum()) for name in first)

    free, held = (FedProx(config(proximal_mu=mu, rounds=1, personal_steps=6)) for mu in (0, 1000))
    assert distance(held) < 0.9 * distance(free)


# -- FedDM-quant ---------------------------------------------------------------------------------------------


def test_quantised_weights_are_within_half_a_step_and_a_quarter_as_large() -> None:
    weights = to_arrays(build_network("tiny", (1, 8, 8), 10, seed=2))
    weights["conv_in.weight"] = np.zeros_like(weights["conv_in.weight"])
    method = FedDMQuant(config())
    coded = method.encode(weights)
    found = method.decode(coded)
    check_weights(found, weights)
    for name, array in weights.items():
        step = np.abs(array).max() / 127 if array.ndim > 1 else 0.0
        assert np.abs(found[name] - array).max() <= 0.5 * step * (1 + 1e-5)
    sizes = [sum(array.nbytes for array in arrays.values()) for arrays in (coded, weights)]
    assert 0.25 < sizes[0] / sizes[1] < 0.27
    again = method.encode(found)
    assert all(np.array_equal(again[name], coded[name]) for name in coded if coded[name].dtype == np.int8)


def test_quantised_weights_without_their_scale_are_refused() -> None:
    method = FedDMQuant(config())
    coded = method.encode({"w": np.ones((2, 2), np.float32)})
    for scale in (None, np.ones(2, np.float32), np.ones(1)):
        broken = {name: array for name, array in coded.items() if name == "w"}
        if scale is not None:
            broken["w/scale"] = scale
        with pytest.raises(DataError, match="without their scale"):
            method.decode(broken)


# -- FedDiffuse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_every_weight_belongs_to_one_part(preset: str) -> None:
    with torch.device("meta"):
        names = list(UNet2DModel(**PRESETS[preset], num_class_embeds=3, sample_size=32).state_dict())
    parts = {part: [name for name in names if part_of(name) == part] for part in PARTS}
    assert all(parts.values())
    assert {name.split(".")[0] for name in parts["up"]} == {"up_blocks", "conv_norm_out", "conv_out"}
    assert {name.split(".")[0] for name in parts["mid"]} == {"mid_block"}


@given(clients=st.integers(1, 9), seed=st.integers(0, 1000))
def test_usplit_pairs_train_the_network_once(clients: int, seed: int) -> None:
    roles = USplit(config()).assign(clients, np.random.default_rng(seed))
    assert len(roles) == clients
    trained_parts = sorted(part for role in roles for part in role)
    pairs, odd = divmod(clients, 2)
    if clients == 1:
        assert roles == [PARTS]
    else:
        expected = {part: pairs for part in PARTS}
        counts = {part: trained_parts.count(part) for part in PARTS}
        extra = sum(counts.values()) - sum(expected.values())
        assert extra == 2 * odd
        assert counts["mid"] == pairs + odd
        assert all(role in ({"up"}, {"up", "mid"}, {"down"}, {"down", "mid"}) for role in roles)


@pytest.mark.parametrize("method", [USplit, ULatDec, UDec])
def test_frozen_parts_stay_as_they_were(
    method: type[FedAvg], make_network: MakeNetwork, local_round: MakeRound
) -> None:
    first = to_arrays(make_network())
    for parts in ({"up"}, {"down", "mid"}, set(PARTS)):
        network = make_network()
        local = local_round(network, range(1, 7), torch.Generator().manual_seed(5))
        method(config(personal_steps=6, rounds=1)).fit(dataclasses.replace(local, parts=frozenset(parts)))
        last = to_arrays(network)
        for part in PARTS:
            moved = not same(chosen(first, {part}), chosen(last, {part}))
            assert moved is (part in parts)


def test_what_is_exchanged() -> None:
    assert UDec(config()).exchanged == {"up"}
    assert ULatDec(config()).exchanged == {"mid", "up"}
    assert USplit(config()).exchanged == PARTS
    assert round_method(config(method="local-only")).exchanged == frozenset()


# -- FedDDPM -------------------------------------------------------------------------------------------------


def test_pretraining_counts_as_a_clients_steps() -> None:
    for share in (0.0, 0.25, 0.999):
        method = FedDDPM(config(pretraining_share=share, personal_steps=40, rounds=5))
        assert method.pretraining_steps + method.steps == 40
        assert method.steps >= 1
        assert sum(len(method.span(number)) for number in range(1, method.rounds + 1)) == method.steps


def test_the_plus_corrects_when_learning_is_slow() -> None:
    always, plus = FedDDPM(config()), FedDDPMPlus(config(slow_learning=0.1))
    for losses, slow in (
        ([1.0], False),
        ([1.0, 0.8], False),
        ([1.0, 0.95], True),
        ([1.0, 1.2], True),
        ([1, 0.5, 0.49], True),
    ):
        assert always.corrects(losses)
        assert plus.corrects(losses) is slow


# -- what all share ------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 500), rounds=st.integers(1, 60))
def test_rounds_divide_the_steps(steps: int, rounds: int) -> None:
    method = FedAvg(config(personal_steps=steps, rounds=rounds))
    taken = [step for number in range(1, method.rounds + 1) for step in method.span(number)]
    assert taken == list(range(1, steps + 1))
    assert all(len(method.span(number)) >= 1 for number in range(1, method.rounds + 1))


def test_the_moving_average_is_the_weighted_sum() -> None:
    generator = np.random.default_rng(1)
    rounds = [{"w": generator.normal(size=3).astype(np.float32)} for _ in range(5)]
    average, decay, steps = RunningAverage(), 0.9, 4
    for number, weights in enumerate(rounds, start=1):
        average.add(weights, steps, decay)
        shares = np.array([decay ** (steps * (number - i)) for i in range(1, number + 1)])
        expected = shares @ np.array([w["w"] for w in rounds[:number]]) / shares.sum()
        assert average.weights["w"] == pytest.approx(expected, rel=1e-5)
    assert average.weights["w"].dtype == np.float32
    without = RunningAverage()
    for weights in rounds:
        without.add(weights, steps, 0.0)
        assert same(without.weights, weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("a"), "'a' is missing"),
        (lambda w: w.update(c=np.zeros(1, np.float32)), "'c' is not expected"),
        (lambda w: w.update(a=np.zeros(3, np.float32)), "shape"),
        (lambda w: w.update(a=np.zeros(2)), "float64"),
        (lambda w: w.update(a=np.array([0, np.nan], np.float32)), "not finite"),
    ],
)
def test_wrong_weights_are_refused(change: Callable[[dict[str, np.ndarray]], Any], message: str) -> None:
    expected = {"a": np.zeros(2, np.float32), "b": np.zeros((1, 2), np.float32)}
    given_weights = dict(expected)
    change(given_weights)
    with pytest.raises(DataError, match=message):
        check_weights(given_weights, expected)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    method = round_method(config(method=name))
    for text in (method.title, method.source, method.server_sees, method.privacy):
        assert len(text) > 3
    assert method.name == name
    assert type(method).__module__.startswith("fedpdiff.methods.")


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r'method = "fedsgd": must be one of pfdm, local-only, .*fedavg'):
        round_method(config(method="fedsgd"))
