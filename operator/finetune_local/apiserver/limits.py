"""What the embedded API server does not do, next to a real one. The documentation shows this list."""

LIMITS: tuple[str, ...] = (
    "Objects live in memory and are gone when the server stops; there is no etcd, backup or encryption at rest.",
    "No admission webhooks, admission policies, limit ranges, priority classes or pod security admission.",
    "ResourceQuotas have no scopes, and limit numbers of objects, CPUs, memory, ephemeral storage and extended "
    "resources only; other names are refused. What sidecars and a pod's overhead add is not counted.",
    "Authentication knows bearer tokens only (static ones and ServiceAccount tokens): no client certificates, no OIDC, "
    "no impersonation.",
    "Creating a role or binding is not checked for escalation of privileges.",
    "Built-in kinds: only those that the operator, its chart and kubectl's everyday commands use. Others, such as "
    "StatefulSets, CronJobs and ReplicaSets, answer 404.",
    "Deployments, Services, PodDisruptionBudgets and PersistentVolumeClaims are stored only: nothing acts on them, but "
    "for the names that a headless Service gives to pods.",
    "Built-in objects are checked for types, unknown and required fields, and for the rules that fine-tuning Jobs and "
    "Pods can break; not for every rule of a real server. Types follow the release of the `kubernetes` package.",
    "A custom resource has exactly one served version, no scale subresource, no conversion and no selectable fields.",
    "CEL rules are core CEL by cel-python: no Kubernetes libraries (quantities, URLs, regex find), no cost limits, no "
    "optionalOldSelf. Definitions whose rules do not parse are refused.",
    "Patterns and CEL matches() are Python's regular expressions, not RE2.",
    "Unchanged values that a changed schema forbids are refused on update: of validation only CEL rules are ratcheted.",
    "Duplicate fields in a JSON body are not found; the last one counts.",
    "managedFields list containers of built-in kinds more finely than Go's structs do, and the number of managers is "
    "not bounded.",
    "Later pages of a list show objects as they are by then, not as they were at the first page.",
    "Protobuf is never written, and read only for the few kinds that kubectl and Helm insist on sending that way.",
    "OpenAPI v2 is an empty document; v3 documents describe fields and patch types, not every parameter.",
    "Evictions do not look at PodDisruptionBudgets. exec, attach, port-forward and proxy answer 404.",
    "Logs come without timestamps, since-filters or previous containers.",
    "No API priority and fairness, no audit log, no request time-outs, no watch cache: reads are the latest state.",
)
