{{- /*
  The named templates of Zero to JupyterHub that a parent chart may call, by its names; called by
  our chart in this chart's own scope. Names are plain unless fullnameOverride gives a prefix.
*/}}

{{- /* Prefix of names, with its hyphen.  {{ include "standin.prefix" . }} */}}
{{- define "standin.prefix" -}}
{{- if kindIs "string" .Values.fullnameOverride }}
{{- with .Values.fullnameOverride }}{{ . }}-{{ end }}
{{- else }}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- if contains $name .Release.Name }}{{ .Release.Name }}-{{ else }}{{ .Release.Name }}-{{ $name }}-{{ end }}
{{- end }}
{{- end }}

{{- define "jupyterhub.hub.fullname" -}}
{{ include "standin.prefix" . }}hub
{{- end }}

{{- define "jupyterhub.hub-pvc.fullname" -}}
{{ include "standin.prefix" . }}hub-db-dir
{{- end }}

{{- define "jupyterhub.hub-serviceaccount.fullname" -}}
{{- $ours := ternary (include "jupyterhub.hub.fullname" .) "default" .Values.hub.serviceAccount.create }}
{{- .Values.hub.serviceAccount.name | default $ours }}
{{- end }}

{{- define "jupyterhub.proxy.fullname" -}}
{{ include "standin.prefix" . }}proxy
{{- end }}

{{- define "jupyterhub.proxy-api.fullname" -}}
{{ include "standin.prefix" . }}proxy-api
{{- end }}

{{- define "jupyterhub.proxy-public.fullname" -}}
{{ include "standin.prefix" . }}proxy-public
{{- end }}

{{- /* What selects pods of a component.
       {{ include "jupyterhub.matchLabels" (merge (dict "componentLabel" "hub") .) }} */}}
{{- define "jupyterhub.matchLabels" -}}
component: {{ .componentLabel }}
app: {{ .Values.nameOverride | default .Chart.Name }}
release: {{ .Release.Name }}
{{- end }}

{{- /* The same and the labels that Kubernetes recommends.
       {{ include "standin.podLabels" (dict "context" . "component" "hub") }} */}}
{{- define "standin.podLabels" -}}
{{ include "jupyterhub.matchLabels" (merge (dict "componentLabel" .component) .context) }}
app.kubernetes.io/name: {{ .context.Values.nameOverride | default .context.Chart.Name }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Labels of an object.  {{ include "standin.labels" (dict "context" . "component" "hub") }} */}}
{{- define "standin.labels" -}}
{{ include "standin.podLabels" . }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ .context.Chart.Name }}-{{ .context.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Environment from a list, or from a map of strings and valueFrom.
       {{ include "standin.env" .Values.hub.extraEnv }} */}}
{{- define "standin.env" -}}
{{- $variables := list }}
{{- if kindIs "map" . }}
{{- range $name, $value := . }}
{{- if kindIs "map" $value }}
{{- $variables = append $variables (merge (dict "name" $name) $value) }}
{{- else if kindIs "string" $value }}
{{- $variables = append $variables (dict "name" $name "value" $value) }}
{{- else }}
{{- fail (printf "extraEnv.%s is %v; quote it, an environment holds text" $name $value) }}
{{- end }}
{{- end }}
{{- else }}
{{- $variables = . }}
{{- end }}
{{- with $variables }}{{ toYaml . }}{{ end }}
{{- end }}

{{- /* Egress to DNS and to everywhere, as z2jh allows by default.  {{ include "standin.egress" . }} */}}
{{- define "standin.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
{{- end }}
