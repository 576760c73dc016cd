{{/* The operator's settings: first what follows from the chart's objects, then .Values.settings by their names. */}}
{{- define "finetune-operator.environment" -}}
# The host name would be the pod's name too, but cut to 63 characters, and then two replicas could have the same.
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: POD_IP
  valueFrom:
    fieldRef: {fieldPath: status.podIP}
- name: FINETUNE_OPERATOR_IDENTITY
  value: $(POD_NAME)
- name: FINETUNE_OPERATOR_NAMESPACE
  value: {{ .Release.Namespace }}
- name: FINETUNE_OPERATOR_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: FINETUNE_OPERATOR_TRAINER_IMAGE
  value: {{ include "finetune-operator.image" (list .Values.trainer.image .) }}
- name: FINETUNE_OPERATOR_IMAGE_PULL_POLICY
  value: {{ .Values.trainer.image.pullPolicy }}
- name: FINETUNE_OPERATOR_REPORTS_URL
  value: https://{{ include "finetune-operator.fullname" . }}-reports.{{ .Release.Namespace }}.svc/v1/reports
- name: FINETUNE_OPERATOR_REPORTS_PORT
  value: {{ include "finetune-operator.reportsPort" . | quote }}
- name: FINETUNE_OPERATOR_ADVERTISE_ADDRESS
  value: $(POD_IP):{{ include "finetune-operator.reportsPort" . }}
- name: FINETUNE_OPERATOR_HEALTH_PORT
  value: {{ include "finetune-operator.healthPort" . | quote }}
- name: FINETUNE_OPERATOR_METRICS
  value: {{ .Values.metrics.enabled | quote }}
- name: FINETUNE_OPERATOR_METRICS_PORT
  value: {{ include "finetune-operator.metricsPort" . | quote }}
- name: FINETUNE_OPERATOR_LEADER_ELECTION
  value: "true"
{{- range $name, $value := .Values.settings }}
- name: FINETUNE_OPERATOR_{{ $name | snakecase | upper }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}
