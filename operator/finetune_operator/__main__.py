"""``python -m finetune_operator``: configured by the environment (see ``settings``) and KUBECONFIG or the pod."""

import argparse
import asyncio
import signal
import sys
from importlib.metadata import version

from finetune_operator import logs
from finetune_operator.connection import Connection, NoCluster
from finetune_operator.metrics import Metrics
from finetune_operator.runtime import Operator
from finetune_operator.settings import InvalidSetting, Settings, documentation


async def serve(settings: Settings) -> None:
    """Run one replica until SIGTERM or SIGINT."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in a task
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    metrics = Metrics()
    connection = await Connection.connect(settings, metrics.trace())
    try:
        await Operator(settings, connection, metrics).run()
    finally:
        await connection.close()


def arguments() -> argparse.ArgumentParser:
    """The command line: it says what the operator is and takes nothing; settings come from the environment."""
    settings = "\n".join(f"  {name} ({default or 'empty'})\n      {about}" for name, default, about in documentation())
    parser = argparse.ArgumentParser(
        prog="python -m finetune_operator",
        description="Works on FineTuneJobs. Configured by environment variables, and by KUBECONFIG or the pod.",
        epilog=f"environment variables (and defaults):\n{settings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"finetune-operator {version('finetune-operator')}")
    return parser


def main() -> int:
    """The process; the answer is its exit code: 2 for arguments, settings or credentials that cannot be used."""
    arguments().parse_args()
    try:
        settings = Settings.from_environment()
    except InvalidSetting as e:
        print(e, file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(serve(settings))
    except (InvalidSetting, NoCluster) as e:
        print(e, file=sys.stderr)
        return 2
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
