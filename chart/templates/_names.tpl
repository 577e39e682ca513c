{{- /*
  Names of objects. Ours are fixed, as z2jh's are by default: values under `jupyterhub:` cannot
  be templated, so what a z2jh pod mounts must have a name that is known beforehand. One release
  a namespace. z2jh's own names come from z2jh's own helpers in the subchart's scope, which is
  right whatever fullnameOverride says.
*/}}

{{- /* The gateway's objects.  {{ include "comet.tunnelbot.name" . }} */}}
{{- define "comet.tunnelbot.name" -}}
tunnelbot
{{- end }}

{{- /* Headless Service that lists the gateway's pods.  {{ include "comet.tunnelbotPods.name" . }} */}}
{{- define "comet.tunnelbotPods.name" -}}
tunnelbot-pods
{{- end }}

{{- /* Secret with comet.yaml.  {{ include "comet.settings.name" . }} */}}
{{- define "comet.settings.name" -}}
comet-settings
{{- end }}

{{- /* Secret with the OAuth client, ours or the one given.  {{ include "comet.conf.name" . }} */}}
{{- define "comet.conf.name" -}}
{{- .Values.conf.existingSecret | default "comet-conf" }}
{{- end }}

{{- /* Objects of the keys hook.  {{ include "comet.keysHook.name" . }} */}}
{{- define "comet.keysHook.name" -}}
comet-keys-hook
{{- end }}

{{- /* Demo: login node with slurmctld, and its Service.  {{ include "comet.demoLogin.name" . }} */}}
{{- define "comet.demoLogin.name" -}}
comet-login
{{- end }}

{{- /* Demo: compute nodes and their headless Service.  {{ include "comet.demoNode.name" . }} */}}
{{- define "comet.demoNode.name" -}}
comet-node
{{- end }}

{{- /* Demo: Secret with munge key, host key and database password.  {{ include "comet.demoSecret.name" . }} */}}
{{- define "comet.demoSecret.name" -}}
comet-demo
{{- end }}

{{- /* The only principal of the gateway's host certificate.  {{ include "comet.hostKeyAlias" . }} */}}
{{- define "comet.hostKeyAlias" -}}
comet-tunnelbot
{{- end }}

{{- /* z2jh's hub Service and Deployment.  {{ include "comet.z2jh.hub" . }} */}}
{{- define "comet.z2jh.hub" -}}
{{- include "jupyterhub.hub.fullname" .Subcharts.jupyterhub }}
{{- end }}

{{- /* z2jh's public Service.  {{ include "comet.z2jh.proxyPublic" . }} */}}
{{- define "comet.z2jh.proxyPublic" -}}
{{- include "jupyterhub.proxy-public.fullname" .Subcharts.jupyterhub }}
{{- end }}

{{- /* An image's reference from its name and tag.  {{ include "comet.image" .Values.tunnelbot.image }} */}}
{{- define "comet.image" -}}
{{ .name }}:{{ .tag }}
{{- end }}
