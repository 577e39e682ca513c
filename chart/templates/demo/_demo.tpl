{{- /*
  The demo cluster runs daemons that become other users (slurmd, sshd), so it needs root and a
  writable root file system: not Pod Security "restricted", and one reason more never to put real
  data on it.
*/}}

{{- /* What both kinds of demo pod have in common.  {{ include "comet.demo.pod" . | nindent 6 }} */}}
{{- define "comet.demo.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "comet.imagePullSecrets" . }}
{{ . }}
{{- end }}
securityContext:
  runAsUser: 0
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- /* Image and pull policy.  {{ include "comet.demo.image" . | nindent 10 }} */}}
{{- define "comet.demo.image" -}}
image: {{ include "comet.image" .Values.demo.image }}
{{- with .Values.demo.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}
