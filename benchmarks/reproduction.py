"""Why the paper's regularizer does what it does: ``python -m benchmarks.reproduction --seeds 2``.

On the digits classifier, at the paper's tolerance of 1.4e-8 and its learning rate of 0.001, in the
paper's float32, which does not resolve that tolerance, and in float64. Two kinds of record, a line each
(``--records FILE``; a call goes on where an earlier one was stopped):

- ``gradient``: of a network trained for a while, the gradients of each variant of the regularizer at
sampled times:
  their size, and how they agree with the exact one's and among each other.
- ``training``: runs, and their NFE and test accuracy on the way. "Random signs" takes the paper's
regularizer and
  gives each element of its gradient, at every step, a sign at random: its size without its direction.
- ``estimate``: EEst of one step against the step's size, in both precisions.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pylocalreg as plr
from benchmarks.digits import spread
from benchmarks.records import Records
from pylocalreg.experiments import digits
from pylocalreg.experiments.files import replacing

STEPS = 480
TOLERANCE = 1.4e-8
LEARNING_RATE = 0.001
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
DRAWS = 16

VARIANTS: dict[str, dict[str, Any]] = {
    "exact, the solver's step": {},
    "exact, the automatic step": {"step": "initial"},
    "first stage held, the solver's step": {"gradient": "frozen"},
    "the paper's: first stage held, the automatic step": {"gradient": "frozen", "step": "initial"},
}
WHOLE = {"vanilla": "vanilla", "paper": "the paper's, 2.5 to 1"}
"""The two methods of the training on MNIST, by their names in its records."""
METHODS = ("vanilla", "the paper's, 2.5 to 1", "the paper's, random signs", "log, 1")


class RandomSigns(digits.Classifier):
    """The regularizer's gradient by the dynamics keeps its elements' sizes, and gets signs at random."""

    def __init__(self, config: digits.Config) -> None:
        super().__init__(config)
        self.generator = torch.Generator().manual_seed(config.seed)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, plr.Solution]:
        logits, solution = super().forward(x)
        if solution.regularization is None:
            return logits, solution
        params = list(self.node.parameters())
        gradients = torch.autograd.grad(solution.regularization, params, retain_graph=True)
        signs = [torch.randint(0, 2, g.shape, generator=self.generator) * 2 - 1 for g in gradients]
        pairs = zip(params, gradients, signs, strict=True)
        term = torch.stack([(p * g * sign).sum() for p, g, sign in pairs]).sum()
        return logits, dataclasses.replace(solution, regularization=term)


def config(method: str, precision: str, seed: int, steps: int) -> digits.Config:
    regularizer: plr.Regularizer | None = None
    coefficient: plr.schedules.Exponential | plr.schedules.Constant | None = None
    if method.startswith("the paper's"):
        regularizer = plr.LocalRegularizer.paper()
        coefficient = plr.schedules.Exponential(2.5, 1.0, steps)
    elif method == "log, 1":
        regularizer, coefficient = plr.LocalRegularizer("unbiased"), plr.schedules.Constant(1.0)
    return digits.Config(
        method,
        regularizer=regularizer,
        coefficient=coefficient,
        steps=steps,
        seed=seed,
        tolerance=TOLERANCE,
        learning_rate=LEARNING_RATE,
        dtype=PRECISIONS[precision],
    )


def training(method: str, precision: str, seed: int, steps: int) -> dict[str, Any]:
    build = RandomSigns if method == "the paper's, random signs" else digits.Classifier
    data = digits.load(seed, PRECISIONS[precision])
    run = digits.train(config(method, precision, seed, steps), data, evaluate_every=steps // 12, build=build)
    return {
        "history": [[row.step, row.nfe, row.accuracy] for row in run.history],
        "nfe": run.last.nfe,
        "accuracy": run.last.accuracy,
        "seconds": run.seconds,
    }


def trained(steps: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """Dynamics after some vanilla steps in float64, and a batch."""
    data = digits.load(0)
    models: list[digits.Classifier] = []

    def build(config: digits.Config) -> digits.Classifier:
        models.append(digits.Classifier(config))
        return models[0]

    digits.train(
        dataclasses.replace(config("vanilla", "float64", 0, steps), tolerance=1e-6), data, build=build
    )
    return models[0].node.dynamics, data.train_x[:128]


def gradients(dynamics: torch.nn.Module, x: torch.Tensor, precision: str, variant: str) -> torch.Tensor:
    """Of the value R at ``DRAWS`` sampled times, in rows."""
    dtype = PRECISIONS[precision]
    rows = []
    for seed in range(DRAWS):
        regularizer = plr.LocalRegularizer(
            scale="linear", generator=torch.Generator().manual_seed(seed), **VARIANTS[variant]
        )
        node = plr.NeuralODE(
            dynamics.to(dtype), abstol=TOLERANCE, reltol=TOLERANCE, regularizer=regularizer, engine="torch"
        )
        value = node(x.to(dtype)).regularization
        assert value is not None
        found = torch.autograd.grad(value, list(node.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in found]).double())
    dynamics.double()
    return torch.stack(rows)


def alignment(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean cosine between the rows of both; a row with itself does not count."""
    cosines = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    if a is b:
        return float((cosines.sum() - cosines.trace()) / (cosines.numel() - len(a)))
    return float(cosines.mean())


def compared(dynamics: torch.nn.Module, x: torch.Tensor, precision: str) -> list[dict[str, Any]]:
    wanted = gradients(dynamics, x, "float64", "exact, the solver's step")
    rows = []
    for variant in VARIANTS:
        found = gradients(dynamics, x, precision, variant)
        rows.append(
            {
                "variant": variant,
                "size": float(found.norm(dim=1).mean()),
                "with_exact": alignment(found, wanted),
                "among": alignment(found, found),
            }
        )
    return rows


def estimates(dynamics: torch.nn.Module, x: torch.Tensor, precision: str) -> list[list[float]]:
    """EEst of the step from t = 0, for step sizes from 1e-4 to 1e-1."""
    dtype = PRECISIONS[precision]
    f = dynamics.to(dtype)
    pairs = []
    for exponent in range(-32, -7):
        dt = 10 ** (exponent / 8)
        with torch.no_grad():
            R = plr.local_error(f, x.to(dtype), 0.0, dt, abstol=TOLERANCE, reltol=TOLERANCE)
        pairs.append([dt, float(R) / dt])
    dynamics.double()
    return pairs


def of_kind(runs: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["kind"] == kind]


def gradient_table(runs: Sequence[dict[str, Any]]) -> str:
    rows = [
        "| gradient of R | size, float64 | size, float32 | with the exact one, float64 | float32 "
        "| among draws, float64 | float32 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    found = {(run["precision"], run["variant"]): run for run in of_kind(runs, "gradient")}
    for variant in VARIANTS:
        pair = [found[precision, variant] for precision in ("float64", "float32")]
        cells = [f"{run['size']:.1e}" for run in pair]
        cells += [f"{run[name]:.2f}" for name in ("with_exact", "among") for run in pair]
        rows.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(rows)


def training_table(runs: Sequence[dict[str, Any]]) -> str:
    """Ratios are to the vanilla run of the same seed and precision."""
    rows = [
        "| precision | method | NFE | ratio to vanilla | test accuracy, % | runs |",
        "|---|---|---:|---:|---:|---:|",
    ]
    done = of_kind(runs, "training")
    vanilla = {(run["precision"], run["seed"]): run["nfe"] for run in done if run["method"] == "vanilla"}
    for precision in PRECISIONS:
        for method in METHODS:
            its = [run for run in done if (run["precision"], run["method"]) == (precision, method)]
            its = [run for run in its if (precision, run["seed"]) in vanilla]
            if not its:
                continue
            cells = (
                precision,
                method,
                spread([run["nfe"] for run in its], 0),
                spread([run["nfe"] / vanilla[precision, run["seed"]] for run in its], 2),
                spread([run["accuracy"] for run in its]),
                str(len(its)),
            )
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def whole_table(rows: Sequence[dict[str, Any]]) -> str:
    """NFE and validation accuracy on MNIST with and without the paper's regularizer, where both have them."""
    table = [
        "| training step | NFE, vanilla | the paper's | ratio | validation, %, vanilla | the paper's |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    of = {(row["method"], row["step"]): row for row in rows}
    for step in sorted({row["step"] for row in rows}):
        if not all((method, step) in of for method in WHOLE):
            continue
        vanilla, paper = (of[method, step] for method in WHOLE)
        table.append(
            f"| {step:,} | {vanilla['nfe']:.0f} | {paper['nfe']:.0f} | {paper['nfe'] / vanilla['nfe']:.2f} "
            f"| {vanilla['accuracy']:.2f} | {paper['accuracy']:.2f} |"
        )
    return "\n".join(table)


def draw(runs: Sequence[dict[str, Any]], whole: Sequence[dict[str, Any]], path: Path) -> None:
    """EEst against the step's size; then NFE over training in both precisions, means over the runs; then NFE
    over the training on MNIST.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.6), layout="constrained")
    left, *panels, right = figure.subplots(1, 4)
    for run, style in zip(of_kind(runs, "estimate"), ("o-", "s-"), strict=True):
        sizes, values = zip(*run["pairs"], strict=True)
        left.loglog(sizes, values, style, markersize=3, label=run["precision"])
    left.axhline(1, color="0.5", linewidth=1)
    left.text(sizes[0], 1.4, "a step is accepted below", fontsize=8, color="0.4")
    left.set(title="Error estimate of one step, tolerance 1.4e-8", xlabel="step size", ylabel="EEst")
    left.legend()
    done = of_kind(runs, "training")
    for panel, precision in zip(panels, PRECISIONS, strict=True):
        for method in METHODS:
            its = [r["history"] for r in done if (r["precision"], r["method"]) == (precision, method)]
            if its:
                steps = [row[0] for row in its[0]]
                means = [sum(h[i][1] for h in its) / len(its) for i in range(len(steps))]
                panel.plot(steps, means, ".-", label=method)
        panel.set(title=f"NFE in {precision}", xlabel="training step", ylim=(0, None))
    panels[0].legend(fontsize=8, loc="lower right")
    for method, label in WHOLE.items():
        its = [row for row in whole if row["method"] == method]
        right.plot([row["step"] for row in its], [row["nfe"] for row in its], ".-", label=label)
    right.set(title="NFE on MNIST, float32, 512 a step", xlabel="training step", ylim=(0, None))
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description="why the paper's regularizer does what it does")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--records", type=Path, default=Path("results/reproduction.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(options.records)
    if not of_kind(records.runs, "estimate"):
        dynamics, x = trained(120)
        for precision in PRECISIONS:
            for row in compared(dynamics, x, precision):
                records.add({"kind": "gradient", "precision": precision, **row})
            records.add(
                {"kind": "estimate", "precision": precision, "pairs": estimates(dynamics, x, precision)}
            )
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            for method in METHODS:
                key = {"kind": "training", "method": method, "precision": precision, "seed": seed}
                if any(all(run.get(name) == value for name, value in key.items()) for run in records.runs):
                    continue
                records.add({**key, **training(method, precision, seed, options.steps)})
                print(key, records.runs[-1]["history"][-1], flush=True)
    print(gradient_table(records.runs), training_table(records.runs), sep="\n\n")


if __name__ == "__main__":
    main()
