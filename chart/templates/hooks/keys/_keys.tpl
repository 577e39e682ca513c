{{- /*
  The keys hook: a Job with an account of its own that exist only around it.
*/}}

{{- /* Annotations of each of the hook's objects; the weight orders them.
       {{ include "comet.keysHook.annotations" (dict "weight" "-20") | nindent 4 }} */}}
{{- define "comet.keysHook.annotations" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ .weight | quote }}
# Gone when all of the hook is well; what failed stays to be looked at.
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* Names of the Secrets that the hook reads and fills, as YAML.
       {{ include "comet.keysHook.secrets" . | nindent 6 }} */}}
{{- define "comet.keysHook.secrets" -}}
{{- range $key := list "tunnelCa" "hostCa" "tunnelbot" "login" "hub" }}
- {{ (get $.Values.secrets $key).name }}
{{- end }}
{{- if .Values.demo.enabled }}
- {{ include "comet.demoSecret.name" . }}
{{- end }}
{{- end }}

{{- /* Names of the Secrets among them that are only checked, joined by commas.
       {{ include "comet.keysHook.checkOnly" . }} */}}
{{- define "comet.keysHook.checkOnly" -}}
{{- $names := list }}
{{- range $key, $secret := .Values.secrets }}
{{- if not $secret.create }}{{ $names = append $names $secret.name }}{{ end }}
{{- end }}
{{- $names | join "," }}
{{- end }}
