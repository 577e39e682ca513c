{{- /*
  Labels. Selectors are the three of "comet.selectorLabels" and never change, since a
  Deployment's selector cannot.
*/}}

{{- /* What selects a component's pods.
       {{ include "comet.selectorLabels" (dict "context" . "component" "tunnelbot") }} */}}
{{- define "comet.selectorLabels" -}}
app.kubernetes.io/name: {{ .context.Chart.Name }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* What every object of ours carries.
       {{ include "comet.labels" (dict "context" . "component" "tunnelbot") }} */}}
{{- define "comet.labels" -}}
{{ include "comet.selectorLabels" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ .context.Chart.Name }}-{{ .context.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* What selects a pod of z2jh, by z2jh's own helper in the subchart's scope.
       {{ include "comet.z2jh.selectorLabels" (dict "context" . "component" "hub") }} */}}
{{- define "comet.z2jh.selectorLabels" -}}
{{- $scope := dict "componentLabel" .component "Template" .context.Template }}
{{- include "jupyterhub.matchLabels" (merge $scope .context.Subcharts.jupyterhub) }}
{{- end }}
