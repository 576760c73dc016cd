"""What the operator asks of the API server, call by call. ``permissions.PERMISSIONS`` is what these calls and the
watches need, and all they need.
"""

from finetune_api import names
from finetune_operator.connection import MERGE_PATCH, ApiError, Connection, Resource, path_of
from finetune_operator.observed import Raw
from finetune_operator.settings import Settings

FINETUNEJOBS = (f"/apis/{names.API_VERSION}", names.PLURAL)
PROFILES = (f"/apis/{names.API_VERSION}", names.PROFILE_PLURAL)
JOBS = ("/apis/batch/v1", "jobs")
PODS = ("/api/v1", "pods")
_EVENTS = ("/api/v1", "events")
_LEASES = ("/apis/coordination.k8s.io/v1", "leases")
_SECRETS = ("/api/v1", "secrets")
_SERVICES = ("/api/v1", "services")

MANAGED = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"
_OWN = {"fieldManager": names.MANAGER}


class Cluster:
    """The calls; ``settings`` say where the operator's own Lease and Secret are."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection, self._settings = connection, settings
        self._lease = path_of(_LEASES, settings.namespace, settings.lease_name)
        self._reports_secret = path_of(_SECRETS, settings.namespace, settings.reports_secret)

    # FineTuneJobs

    async def serves_finetunejobs(self) -> bool:
        """Whether the CustomResourceDefinition is there and established."""
        try:
            found = await self._connection.call("GET", FINETUNEJOBS[0])
        except ApiError as e:
            if e.code == 404:
                return False
            raise
        return any(resource["name"] == names.PLURAL for resource in found.get("resources", ()))

    async def get_finetunejob(self, namespace: str, name: str) -> Raw | None:
        """A FineTuneJob as it is now."""
        return await self._connection.get_or_none(path_of(FINETUNEJOBS, namespace, name))

    async def patch_status(self, namespace: str, name: str, resource_version: str, status: Raw) -> Raw:
        """Merge into the status, if the FineTuneJob is still at this resourceVersion; the answer is the object.

        Raises:
            ApiError: 409 where it is not, 404 where it is gone.
        """
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        path = f"{path_of(FINETUNEJOBS, namespace, name)}/status"
        return await self._connection.call("PATCH", path, body, content_type=MERGE_PATCH, params=_OWN)

    async def get_profile(self, name: str) -> Raw | None:
        """A FineTuneProfile as it is now; None also where there is no definition of them."""
        return await self._connection.get_or_none(path_of(PROFILES, None, name))

    # Jobs, pods and Events

    async def create_job(self, manifest: Raw) -> Raw:
        """Create a Job."""
        return await self._create(JOBS, manifest)

    async def get_job(self, namespace: str, name: str) -> Raw | None:
        """A Job as it is now."""
        return await self._connection.get_or_none(path_of(JOBS, namespace, name))

    async def create_service(self, manifest: Raw) -> Raw:
        """Create a Service."""
        return await self._create(_SERVICES, manifest)

    async def get_service(self, namespace: str, name: str) -> Raw | None:
        """A Service as it is now."""
        return await self._connection.get_or_none(path_of(_SERVICES, namespace, name))

    async def delete_job(self, namespace: str, name: str, uid: str, resource_version: str) -> None:
        """Delete a Job and then its pods, if it is still this one and unchanged.

        Raises:
            ApiError: 409 where it is not.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options = {"propagationPolicy": "Background", "preconditions": preconditions}
        try:
            await self._connection.call("DELETE", path_of(JOBS, namespace, name), options)
        except ApiError as e:
            if e.code != 404:
                raise

    async def list_refusals(self, namespace: str, uid: str) -> list[Raw]:
        """The Events of a Job about pods that could not be created."""
        selector = f"involvedObject.uid={uid},reason=FailedCreate"
        return (await self._connection.list_pages(_EVENTS, namespace, {"fieldSelector": selector}, dict))[0]

    async def list_pods_of(self, namespace: str, uid: str) -> list[Raw]:
        """The training pods of a FineTuneJob as they are now."""
        selector = f"{MANAGED},{names.LABEL_JOB_UID}={uid}"
        return (await self._connection.list_pages(PODS, namespace, {"labelSelector": selector}, dict))[0]

    async def create_event(self, manifest: Raw) -> None:
        """Create an Event; one that exists already says the same."""
        try:
            await self._create(_EVENTS, manifest)
        except ApiError as e:
            if e.code != 409:
                raise

    async def _create(self, resource: Resource, manifest: Raw) -> Raw:
        path = path_of(resource, manifest["metadata"]["namespace"])
        return await self._connection.call("POST", path, manifest, params=_OWN)

    # Tokens, Lease and certificate

    async def review_token(self, token: str) -> Raw:
        """The status of a TokenReview for our audience."""
        spec = {"token": token, "audiences": [names.MANAGER]}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._connection.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        return dict(answer.get("status") or {})

    async def get_lease(self) -> Raw | None:
        """The Lease of the leader election."""
        return await self._connection.get_or_none(self._lease)

    async def create_lease(self, lease: Raw) -> Raw:
        """Create the Lease. 409 where another replica was faster."""
        return await self._connection.call("POST", path_of(_LEASES, self._settings.namespace), lease)

    async def update_lease(self, lease: Raw) -> Raw:
        """Replace the Lease, if it is still at its resourceVersion."""
        return await self._connection.call("PUT", self._lease, lease)

    async def get_reports_secret(self) -> Raw | None:
        """The Secret with the certificate of the reports endpoint."""
        return await self._connection.get_or_none(self._reports_secret)

    async def update_reports_secret(self, secret: Raw) -> Raw:
        """Replace that Secret, if it is still at its resourceVersion."""
        return await self._connection.call("PUT", self._reports_secret, secret)
