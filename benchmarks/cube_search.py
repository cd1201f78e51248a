"""How long a cube takes to find its nearest entries, beside FAISS: ``python benchmarks/cube_search.py``.

Keys of 64 numbers in clusters, as inputs of a feed-forward part are. `exact` looks at all entries, `two levels` is the
cube's own reading, which also gathers and mixes what it found, and the indexes are FAISS's, on one thread. Beside the
time stands the share of queries whose nearest entry was found, and for the indexes the time to build them: a cube
computes its keys anew whenever the number of its inputs has doubled, and then an index is to be built anew, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from liquid_control.models.cubes import BLOCK, Cube, CubeConfig
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

KEY, BATCHES = 64, (1, 64)


def filled_cube(entries: int, probed: int) -> Cube:
    """A cube of so many entries, in blocks of neighbours."""
    cube = Cube(CubeConfig(width=KEY, layers=1, blocks=entries // BLOCK, key_size=KEY, probed=probed))
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(entries // BLOCK, 1, KEY, generator=generator)
    keys = centres + 0.7 * torch.randn(entries // BLOCK, BLOCK, KEY, generator=generator)
    of = cube.tensors
    of["projection"].copy_(torch.eye(KEY))
    of["keys"].copy_(torch.nn.functional.normalize(keys, dim=-1))
    of["residuals"].copy_(of["keys"])
    of["filled"].fill_(BLOCK)
    of["summaries"].copy_(of["keys"].mean(1))
    return cube


def milliseconds(function: Callable[[], object], rounds: int) -> float:
    """The median of so many calls, in processor time: one thread works, and other programs are no part of it."""
    spent = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        spent.append(time.process_time() - begin)
    return 1000 * float(np.median(spent))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=argument(Count), default=30, help="calls, of which the median counts")
    parser.add_argument("--entries", type=argument(Count), nargs="+", default=[4096, 16384, 65536, 262144])
    arguments = parser.parse_args()
    import faiss

    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    table = Table("entries", "search", *(f"ms, batch {batch}" for batch in BATCHES), "nearest found", "build, s")
    for entries in arguments.entries:
        cube = filled_cube(entries, 8)
        keys = cube.tensors["keys"].flatten(0, 1)
        generator = torch.Generator().manual_seed(1)
        place = torch.randint(entries, (max(BATCHES),), generator=generator)
        queries = torch.nn.functional.normalize(
            keys[place] + 0.05 * torch.randn(max(BATCHES), KEY, generator=generator), dim=-1
        )
        nearest = (queries @ keys.T).argmax(1)

        def row(
            name: str,
            search: Callable[[torch.Tensor], np.ndarray],
            build: float,
            entries: int = entries,
            nearest: torch.Tensor = nearest,
            queries: torch.Tensor = queries,
        ) -> None:
            found = float((torch.as_tensor(search(queries)) == nearest).float().mean())
            paces = [milliseconds(lambda batch=batch: search(queries[:batch]), arguments.rounds) for batch in BATCHES]
            told = f"{build:.2f}" if build else ""
            table.add_row(f"{entries:,}", name, *(f"{pace:.3f}" for pace in paces), f"{found:.0%}", told)

        row("exact", lambda x, keys=keys: (x @ keys.T).topk(4).indices[:, 0], 0)
        for probed in (8, 16):
            reader = filled_cube(entries, probed)
            row(f"two levels, {probed} blocks", lambda x, reader=reader: reader.look_up(x).places[:, 0], 0)
        numbers = keys.numpy()
        lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(KEY), KEY, entries // BLOCK, faiss.METRIC_INNER_PRODUCT)
        lists.cp.niter, lists.cp.max_points_per_centroid = 5, 64
        graph = faiss.IndexHNSWFlat(KEY, 16, faiss.METRIC_INNER_PRODUCT)
        for name, index in (("FAISS IVF", lists), ("FAISS HNSW", graph)):
            begin = time.process_time()
            index.train(numbers)
            index.add(numbers)
            build = time.process_time() - begin
            for effort in (8, 16) if index is lists else (32,):
                if index is lists:
                    index.nprobe = effort
                else:
                    index.hnsw.efSearch = effort
                said = f"{name}, {'nprobe' if index is lists else 'efSearch'} {effort}"
                row(said, lambda x, index=index: index.search(x.numpy(), 4)[1][:, 0], build)
    Console().print(table)


if __name__ == "__main__":
    command.run(lambda _: main())
