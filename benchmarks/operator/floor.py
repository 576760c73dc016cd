"""The floor: as many plain Jobs, created directly, by a client that does nothing else.

python -m benchmarks.operator.floor '{"url": …, "token": …, "ca": …, "manifest": …, "count": …, "workers": …}'
"""

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks.trainer.process import tell
from finetune_local.client import ApiClient


async def create(url: str, token: str, ca: str, manifest: dict[str, Any], count: int, workers: int) -> None:
    """Create ``count`` Jobs like ``manifest``, ``workers`` at a time, and tell the processor time and the wall time."""
    meta = manifest["metadata"]
    path = f"/apis/batch/v1/namespaces/{meta['namespace']}/jobs"
    names = iter(range(count))
    async with ApiClient(url, token, ca) as client:

        async def work() -> None:
            for number in names:
                await client.create(path, {**manifest, "metadata": {**meta, "name": f"floor-{number:05}"}})

        cpu, wall = time.process_time(), time.monotonic()
        await asyncio.gather(*(work() for _ in range(workers)))
        tell(cpu=time.process_time() - cpu, wall=time.monotonic() - wall)


if __name__ == "__main__":
    asyncio.run(create(**json.loads(sys.argv[1])))
