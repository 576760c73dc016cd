{{- /* Generated, do not edit: change the source and run `make generate`. */ -}}
{{- define "finetune-operator.rules.served" -}}
# Read the FineTuneJobs to work on; get confirms one before anything is done that cannot be undone.
- apiGroups:
  - finetune.dev
  resources:
  - finetunejobs
  verbs:
  - get
  - list
  - watch
# Write the status. The spec is never written.
- apiGroups:
  - finetune.dev
  resources:
  - finetunejobs/status
  verbs:
  - patch
# Create the Job of a FineTuneJob and follow it; delete it to suspend, cancel or end the FineTuneJob. Jobs are never changed.
- apiGroups:
  - batch
  resources:
  - jobs
  verbs:
  - get
  - list
  - watch
  - create
  - delete
# Create the headless Service by which the pods of a FineTuneJob on several nodes find one another; get tells whose a Service of the same name is.
- apiGroups:
  - ''
  resources:
  - services
  verbs:
  - get
  - create
# Follow training pods and read how they ended.
- apiGroups:
  - ''
  resources:
  - pods
  verbs:
  - list
  - watch
# Tell what happens in `kubectl describe`; read why a Job makes no pod.
- apiGroups:
  - ''
  resources:
  - events
  verbs:
  - create
  - list
{{- end }}
{{- define "finetune-operator.rules.cluster" -}}
# Read the FineTuneProfiles; get confirms one before a FineTuneJob is refused.
- apiGroups:
  - finetune.dev
  resources:
  - finetuneprofiles
  verbs:
  - get
  - list
  - watch
# Know which pod a progress report comes from.
- apiGroups:
  - authentication.k8s.io
  resources:
  - tokenreviews
  verbs:
  - create
{{- end }}
{{- define "finetune-operator.rules.own" -}}
# Create the Lease of the leader election. A rule on create cannot name an object.
- apiGroups:
  - coordination.k8s.io
  resources:
  - leases
  verbs:
  - create
# Take and renew the Lease of the leader election.
- apiGroups:
  - coordination.k8s.io
  resources:
  - leases
  resourceNames:
  - finetune-operator
  verbs:
  - get
  - update
# Keep the certificate of the reports endpoint, in the one Secret the operator may read.
- apiGroups:
  - ''
  resources:
  - secrets
  resourceNames:
  - finetune-operator-reports
  verbs:
  - get
  - update
{{- end }}
