{{- /*
  What must agree. Each check fails with the values as they are and the fix; all complaints are
  collected, so that one render shows every one of them.
*/}}

{{- /* Fails the render, or gives nothing.  {{ include "comet.validate" . }} */}}
{{- define "comet.validate" -}}
{{- $complaints := list }}
{{- range $check := list "profiles" "door" "login" "secrets" "hub" "removed" }}
{{- range $line := splitList "\n" (include (printf "comet.validate.%s" $check) $) }}
{{- with trim $line }}{{ $complaints = append $complaints (printf "- %s" .) }}{{ end }}
{{- end }}
{{- end }}
{{- with $complaints }}
{{- fail (printf "\n\njupyterhub-comet: these values do not fit together.\n%s\n" (join "\n" .)) }}
{{- end }}
{{- end }}

{{- /* Profiles name clusters that exist. */}}
{{- define "comet.validate.profiles" -}}
{{- $clusters := include "comet.pruned" (.Values.clusters | default dict) | fromYaml }}
{{- $profiles := include "comet.pruned" (.Values.profiles | default dict) | fromYaml }}
{{- if not $clusters }}
clusters is empty; describe at least one Slurm cluster, as values/comet.yaml does.
{{- end }}
{{- if not $profiles }}
profiles is empty; nobody could start anything. Describe at least one, as values/comet.yaml does.
{{- end }}
{{- range $name, $profile := $profiles }}
{{- if not (hasKey $clusters $profile.cluster) }}
profiles.{{ $name }}.cluster is {{ $profile.cluster | quote }}, but clusters are: {{ keys $clusters | sortAlpha | join ", " }}. Name one of them.
{{- end }}
{{- end }}
{{- with .Values.defaultProfile }}
{{- if not (hasKey $profiles .) }}
defaultProfile is {{ . | quote }}, but profiles are: {{ keys $profiles | sortAlpha | join ", " }}. Name one of them.
{{- end }}
{{- end }}
{{- end }}

{{- /* Jobs and browsers can find us, and nothing travels in the clear unless said so. */}}
{{- define "comet.validate.door" -}}
{{- if not (or .Values.tunnelbot.hostname .Values.demo.enabled) }}
tunnelbot.hostname is empty; set it to the DNS name that compute nodes dial.
{{- end }}
{{- with .Values.tunnelbot.portRange }}
{{- if lt (int .last) (int .first) }}
tunnelbot.portRange.last is {{ int .last }}, below tunnelbot.portRange.first {{ int .first }}; swap them.
{{- end }}
{{- end }}
{{- with .Values.tunnelbot.service }}
{{- $taken := dict (print (int .port)) "port" }}
{{- range $name, $port := .extraPorts }}
{{- if $port }}
{{- if hasKey $taken (print (int $port)) }}
tunnelbot.service.extraPorts.{{ $name }} is {{ int $port }}, and so is tunnelbot.service.{{ get $taken (print (int $port)) }}; choose another.
{{- end }}
{{- $_ := set $taken (print (int $port)) (printf "extraPorts.%s" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- $z2jh := .Values.jupyterhub }}
{{- $ingressTls := and (dig "ingress" "enabled" false $z2jh) (dig "ingress" "tls" list $z2jh) }}
{{- $gateway := dig "httpRoute" "enabled" false $z2jh }}
{{- if not (or .Values.insecure (dig "proxy" "https" "enabled" false $z2jh) $ingressTls $gateway) }}
insecure is false and there is no TLS: jupyterhub.proxy.https.enabled is false, and neither jupyterhub.ingress (with tls) nor jupyterhub.httpRoute is on. Set one of them up, or insecure: true for a demo.
{{- end }}
{{- end }}

{{- /* Somebody can log in: the same rule as JupyterHub's own, found before the pod starts. */}}
{{- define "comet.validate.login" -}}
{{- $rules := list }}
{{- range $section, $traits := omit .Values.jupyterhub.hub.config "JupyterHub" }}
{{- if kindIs "map" $traits }}
{{- range $trait, $value := $traits }}
{{- if and $value (or (hasPrefix "allow" $trait) (hasPrefix "admin_users" $trait) (hasPrefix "admin_groups" $trait)) }}
{{- $rules = append $rules $trait }}
{{- end }}
{{- if and (eq $trait "idps") (kindIs "map" $value) }}
{{- range $idp, $rule := $value }}
{{- if and $rule (or $rule.allow_all $rule.allowed_domains) }}{{ $rules = append $rules $idp }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $rules }}
jupyterhub.hub.config lets nobody in: no section has allow_all, allowed_users, admin_users, allowed_groups or an idps entry with allow_all. Set one, for example jupyterhub.hub.config.CILogonOAuthenticator.allowed_users.
{{- end }}
{{- $class := dig "JupyterHub" "authenticator_class" "" .Values.jupyterhub.hub.config }}
{{- if and (contains "CILogon" $class) (not .Values.conf.existingSecret) }}
{{- range $key := list "clientId" "clientSecret" "hostname" }}
{{- if not (get $.Values.conf $key) }}
conf.{{ $key }} is empty, and jupyterhub.hub.config.JupyterHub.authenticator_class is {{ $class | quote }}, which needs it. Set it, or conf.existingSecret.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* z2jh's pods mount the Secrets that the keys hook makes. */}}
{{- define "comet.validate.secrets" -}}
{{- $hub := .Values.jupyterhub.hub }}
{{- if ne ($hub.existingSecret | default "") .Values.secrets.hub.name }}
jupyterhub.hub.existingSecret is {{ $hub.existingSecret | default "" | quote }}, but secrets.hub.name is {{ .Values.secrets.hub.name | quote }}. Give both the same name.
{{- end }}
{{- $volumes := dict }}
{{- range $hub.extraVolumes }}
{{- with .secret }}{{ $_ := set $volumes .secretName true }}{{ end }}
{{- end }}
{{- $needed := dict "the settings" (include "comet.settings.name" .) "secrets.tunnelCa.name" .Values.secrets.tunnelCa.name "secrets.login.name" .Values.secrets.login.name }}
{{- range $key, $name := $needed }}
{{- if not (hasKey $volumes $name) }}
jupyterhub.hub.extraVolumes mounts the Secrets {{ keys $volumes | sortAlpha | join ", " | default "(none)" }}, but not {{ $name }} ({{ $key }}). Helm replaces lists: repeat our three entries where you add yours.
{{- end }}
{{- end }}
{{- $paths := dict }}
{{- range $hub.extraVolumeMounts }}{{ $_ := set $paths .mountPath true }}{{ end }}
{{- range $path := list "settings" "tunnel-ca" "login" }}
{{- $path := printf "/etc/jupyterhub-comet/%s" $path }}
{{- if not (hasKey $paths $path) }}
jupyterhub.hub.extraVolumeMounts has {{ keys $paths | sortAlpha | join ", " | default "nothing" }}, but not {{ $path }}. Helm replaces lists: repeat our three entries where you add yours.
{{- end }}
{{- end }}
{{- if kindIs "map" $hub.extraEnv }}
{{- range $variable := list "CILOGON_CLIENT_ID" "CILOGON_CLIENT_SECRET" "OAUTH_CALLBACK_URL" }}
{{- $named := dig $variable "valueFrom" "secretKeyRef" "name" "" $hub.extraEnv }}
{{- if and $named (ne $named (include "comet.conf.name" $)) }}
jupyterhub.hub.extraEnv.{{ $variable }} takes Secret {{ $named | quote }}, but conf.existingSecret is {{ $.Values.conf.existingSecret | quote }} (Secret {{ include "comet.conf.name" $ }}). Give both the same name.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Settings of z2jh under which running jobs would be lost. */}}
{{- define "comet.validate.hub" -}}
{{- $hub := .Values.jupyterhub.hub }}
{{- $services := $hub.services | default dict }}
{{- $lines := $hub.extraConfig | default dict }}
{{- if not (hasKey $services "tunnelbot") }}
jupyterhub.hub.services is {{ keys $services | sortAlpha | join ", " | default "empty" }}, without tunnelbot; the gateway could report nothing. Add `tunnelbot: {}`.
{{- end }}
{{- if not (contains "jupyterhub_comet.configure.configure(c)" (values $lines | join "\n")) }}
jupyterhub.hub.extraConfig ({{ keys $lines | sortAlpha | join ", " | default "empty" }}) never calls jupyterhub_comet.configure.configure(c); keep the key 00-comet.
{{- end }}
{{- if $hub.consecutiveFailureLimit }}
jupyterhub.hub.consecutiveFailureLimit is {{ int $hub.consecutiveFailureLimit }}: so many bad starts of anybody end the hub. Set 0.
{{- end }}
{{- if $hub.concurrentSpawnLimit }}
jupyterhub.hub.concurrentSpawnLimit is {{ int $hub.concurrentSpawnLimit }}: jobs waiting in Slurm's queue count, so the next user is refused. Set 0.
{{- end }}
{{- if eq (dig "db" "type" "" $hub) "sqlite-memory" }}
jupyterhub.hub.db.type is "sqlite-memory": a restart of the hub forgets whose job is whose. Use sqlite-pvc, mysql or postgres.
{{- end }}
{{- end }}

{{- /* Keys that are gone, each with its new name. None so far. */}}
{{- define "comet.validate.removed" -}}
{{- end }}
