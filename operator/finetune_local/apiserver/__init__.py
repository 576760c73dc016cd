"""A small Kubernetes API server that runs inside a process: what kubectl, the operator and Helm need for our resources.

    server = ApiServer(logs_dir=path)
    await server.start()
    yaml.safe_dump(server.kubeconfig())

What it does not do is listed in `finetune_local.apiserver.limits`.
"""

from .errors import ApiError
from .rbac import Grant
from .requests import DropConnection, Interceptor, RequestRecord
from .server import ApiServer

__all__ = ["ApiError", "ApiServer", "DropConnection", "Grant", "Interceptor", "RequestRecord"]
