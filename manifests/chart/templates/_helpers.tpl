{{- define "kubewasm.labels" -}}
app.kubernetes.io/name: kubewasm
{{- end -}}

{{- define "kubewasm.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{- /* What a pod without rights has in common, the node's and the approver's. */ -}}
{{- define "kubewasm.unprivilegedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
