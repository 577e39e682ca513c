{{- /*
  What pods of ours have in common.
*/}}

{{- /* Pod-level security of a pod that meets Pod Security "restricted".
       {{ include "comet.podSecurity" . | nindent 8 }} */}}
{{- define "comet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
# Secret files are root's; this group lets uid 1000 read them at mode 0440.
fsGroup: 1000
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Container-level security of the same.  {{ include "comet.containerSecurity" . | nindent 12 }} */}}
{{- define "comet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* imagePullSecrets of a pod, or nothing.  {{ include "comet.imagePullSecrets" . | nindent 6 }} */}}
{{- define "comet.imagePullSecrets" -}}
{{- $names := list }}
{{- range $name, $used := .Values.imagePullSecrets }}
{{- if $used }}{{ $names = append $names (dict "name" $name) }}{{ end }}
{{- end }}
{{- with $names }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Egress rule to the cluster's DNS.  {{ include "comet.dnsEgress" . | nindent 4 }} */}}
{{- define "comet.dnsEgress" -}}
# --> DNS
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
    {{- range $name, $cidr := .Values.networkPolicy.dnsServers }}
    {{- with $cidr }}
    # {{ $name }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
    {{- end }}
{{- end }}
