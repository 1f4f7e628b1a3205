"""Rows of all processes, for terms that compare a batch's samples with each other."""

import torch
import torch.distributed as dist


def process_count() -> int:
    """Return the number of processes that train together; 1 for a process alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Gather the rows (B, ...) of all processes, in their order; this process's own alone carry a gradient.

    Processes may have different numbers of rows. A loss of all rows, computed alike on every process, is averaged over
    processes with the gradients: see `of_all_processes`.

    Args:
        rows: Rows (B, ...) of this process, on the device that the processes communicate by.

    Returns:
        Rows (sum of all B, ...); `rows` itself where there is one process.
    """
    processes = process_count()
    if processes == 1:
        return rows
    own = rows.detach()
    counts = [torch.zeros(1, dtype=torch.long, device=own.device) for _ in range(processes)]
    dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
    numbers = [int(count) for count in counts]
    padded = torch.cat([own, own.new_zeros(max(numbers) - len(own), *own.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(gathered, padded.contiguous())
    parts = [part[:number] for part, number in zip(gathered, numbers, strict=True)]
    parts[dist.get_rank()] = rows
    return torch.cat(parts)


def of_all_processes(loss: torch.Tensor) -> torch.Tensor:
    """Scale the gradient of a loss of gathered rows, so that the mean over processes is the gradient by all rows.

    Each process differentiates by its own rows alone, and the trainer takes the mean over processes where the sum is
    the whole gradient. The value stays.
    """
    return loss + (process_count() - 1) * (loss - loss.detach())
