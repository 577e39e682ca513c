{{- /*
  comet.yaml as jupyterhub_comet.settings reads it: the values' own keys, camelCase.
*/}}

{{- /* A map without its null values, at any depth: null is how values take a default back.
       {{ include "comet.pruned" .Values.profiles }} */}}
{{- define "comet.pruned" -}}
{{- $kept := dict }}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- $_ := set $kept $key (include "comet.pruned" $value | fromYaml) }}
{{- else if not (kindIs "invalid" $value) }}
{{- $_ := set $kept $key $value }}
{{- end }}
{{- end }}
{{- toYaml $kept }}
{{- end }}

{{- /* Name that jobs dial; in the demo the Service itself.  {{ include "comet.dialName" . }} */}}
{{- define "comet.dialName" -}}
{{- $service := printf "%s.%s.svc" (include "comet.tunnelbot.name" .) .Release.Namespace }}
{{- .Values.tunnelbot.hostname | default $service }}
{{- end }}

{{- /* The whole file.  {{ include "comet.settings" . }} */}}
{{- define "comet.settings" -}}
{{- $gateway := pick .Values.tunnelbot "portRange" "quarantineSeconds" "silenceSeconds" "keyType" "proxyCommand" }}
{{- $_ := set $gateway "hostname" (include "comet.dialName" .) }}
{{- $_ := set $gateway "port" (int (.Values.tunnelbot.port | default .Values.tunnelbot.service.port)) }}
{{- $_ := set $gateway "hostKeyAlias" (include "comet.hostKeyAlias" .) }}
{{- $_ := set $gateway "podService" (include "comet.tunnelbotPods.name" .) }}
{{- $settings := pick .Values "clusters" "profiles" "defaultProfile" "accounts" "spawn" }}
{{- $_ := set $settings "tunnelbot" $gateway }}
{{- include "comet.pruned" $settings }}
{{- end }}
