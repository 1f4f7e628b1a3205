# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Time, storage and network of a distillation on many machines, calculated from costs measured per sample.

    python recipes/benchmarks/plan.py
    python recipes/benchmarks/plan.py --device "one H100, bf16" --live-ms 1.0 --stored-ms 0.6 --build-ms 0.5

The defaults of the measured costs are those of SCALE.md's first table, where their commands stand; measure your own.
Devices share the samples evenly, and each machine's work is slowed by `--efficiency`. Output is Markdown.
"""

import argparse

from hf_e2kd.experiments import run_recipe

DATA = {"ImageNet-1k": (1_281_167, 200), "1 B images": (1_000_000_000, 1)}


def gigabytes(size: float) -> str:
    return f"{size / 1e12:.1f} TB" if size >= 1e12 else f"{size / 1e9:.2f} GB"


def hours(milliseconds: float) -> float:
    return milliseconds / 3.6e6


def duration(time: float) -> str:
    """Of hours."""
    return f"{time / 8766:.1f} years" if time > 8766 else f"{time / 24:.1f} d" if time > 48 else f"{time:.1f} h"


def times(options: argparse.Namespace) -> None:
    """Hours by data, way and number of machines."""
    machines = options.machines
    print(f"| time on {options.device} × {options.devices_per_machine} a machine | {' | '.join(map(str, machines))} |")
    print(f"|---|{'---|' * len(machines)}")
    for name, (count, epochs) in DATA.items():
        rows = {
            "building the store, once": count * options.build_ms,
            f"{epochs} epochs from the store": count * epochs * options.stored_ms,
            f"{epochs} epochs, live teacher": count * epochs * options.live_ms,
        }
        for what, milliseconds in rows.items():
            total = hours(milliseconds) / options.efficiency
            cells = [duration(total / (number * options.devices_per_machine)) for number in machines]
            print(f"| {name}: {what.replace('1 epochs', '1 epoch')} | {' | '.join(cells)} |")


def sizes(options: argparse.Namespace) -> None:
    """What is kept, read and lost."""
    print(f"| | {' | '.join(DATA)} |")
    print(f"|---|{'---|' * len(DATA)}")
    rows = {
        "images (assumed size)": options.image_bytes,
        "store, all logits": options.store_bytes,
        "store, 50 largest logits": options.top_k_bytes,
        "in each process: ids' index": 16,
        "in each process: shuffled order": options.order_bytes,
        "largest while a store is built": options.building_bytes,
    }
    for what, each in rows.items():
        print(f"| {what} | {' | '.join(gigabytes(each * count) for count, _ in DATA.values())} |")


def rates(options: argparse.Namespace) -> None:
    """What one machine's network must carry, and how often it fails."""
    devices = options.devices_per_machine
    print(f"| for one machine of {devices} × {options.device} | from the store | live teacher |")
    print("|---|---|---|")
    ways = {"stored": (options.stored_ms, options.store_bytes), "live": (options.live_ms, 0)}
    samples = {way: 1000 * devices / milliseconds for way, (milliseconds, _) in ways.items()}
    read = {way: samples[way] * (options.image_bytes + row) for way, (_, row) in ways.items()}
    # A ring sends each gradient twice, and each machine passes on what its devices have summed.
    steps = {way: samples[way] / (devices * options.batch_size) for way in ways}
    sent = {way: steps[way] * 2 * 4 * 1e6 * options.million_parameters for way in ways}
    print(f"| samples a second | {' | '.join(f'{value:,.0f}' for value in samples.values())} |")
    print(f"| images and rows read | {' | '.join(f'{value / 1e6:,.1f} MB/s' for value in read.values())} |")
    print(f"| gradients sent, float32 | {' | '.join(f'{8 * value / 1e9:.2f} Gbit/s' for value in sent.values())} |")


def failures(options: argparse.Namespace) -> None:
    """How often a job of many devices is interrupted, and the checkpoints that cost least (Young, 1974)."""
    print(f"| machines of {options.devices_per_machine} devices | {' | '.join(map(str, options.machines))} |")
    print(f"|---|{'---|' * len(options.machines)}")
    between = [options.device_hours_between_failures / (n * options.devices_per_machine) for n in options.machines]
    # The square root of twice the cost of a checkpoint times the time between failures.
    every = [(2 * options.checkpoint_seconds / 3600 * time) ** 0.5 for time in between]
    print(f"| between failures | {' | '.join(map(duration, between))} |")
    print(f"| checkpoint every | {' | '.join(map(duration, every))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measured = parser.add_argument_group("measured, of one device")
    measured.add_argument("--device", default="CPU core")
    measured.add_argument("--live-ms", type=float, default=214, help="a training step with a live teacher, a sample")
    measured.add_argument("--stored-ms", type=float, default=138, help="a training step from a store, a sample")
    measured.add_argument("--build-ms", type=float, default=76, help="building a store, a sample")
    measured.add_argument("--store-bytes", type=float, default=2142)
    measured.add_argument("--top-k-bytes", type=float, default=354)
    measured.add_argument("--building-bytes", type=float, default=133)
    measured.add_argument("--batch-size", type=int, default=16, help="of one device")
    assumed = parser.add_argument_group("assumed")
    assumed.add_argument("--machines", type=int, nargs="+", default=[1, 8, 64])
    assumed.add_argument("--devices-per-machine", type=int, default=64)
    assumed.add_argument("--efficiency", type=float, default=0.9, help="of many devices, beside one")
    assumed.add_argument("--order-bytes", type=float, default=44, help="a shuffled order, a sample")
    assumed.add_argument("--image-bytes", type=float, default=110_000)
    assumed.add_argument("--million-parameters", type=float, default=11.7, help="of the student")
    assumed.add_argument("--device-hours-between-failures", type=float, default=50_000)
    assumed.add_argument("--checkpoint-seconds", type=float, default=10)
    options = parser.parse_args()
    for table in (times, sizes, rates, failures):
        table(options)
        print()


if __name__ == "__main__":
    run_recipe(main)
