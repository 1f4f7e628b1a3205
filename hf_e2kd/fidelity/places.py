"""Places of a process's samples among those of all processes."""


class Places:
    """Count a process's batches, which alternate with those of other processes, and are filled up at the end.

    Args:
        samples: Number of the samples that all processes measure.
        processes: Number of the processes.
        process: Number of this one, from 0 on.
    """

    def __init__(self, samples: int, processes: int, process: int):
        self.samples, self.processes, self.process = samples, processes, process
        self.first = 0
        """Place of the last batch's first sample."""
        self._begun = 0

    def next(self, size: int) -> int:
        """Count a batch, and return how many of its `size` samples are measured: the others fill it up.

        Example:
            >>> places = Places(13, processes=2, process=1)
            >>> places.next(4), places.next(4)
            (4, 1)
        """
        self.first = self._begun + self.process * size
        self._begun += self.processes * size
        return max(0, min(size, self.samples - self.first))
