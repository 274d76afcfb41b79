{{- define "carousel.containerSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* Called with the root, a path and the seconds that a probe waits. */}}
{{- define "carousel.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ include "carousel.encryptsHttp" .root | empty | ternary "HTTP" "HTTPS" }}
timeoutSeconds: {{ .timeout }}
{{- end -}}

{{/* The text of a setting. Numbers of a values file are floats, and a large one would print as 1e+06. */}}
{{- define "carousel.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- . | toString -}}
{{- end -}}
{{- end -}}

{{- define "carousel.store" -}}
{{- with .Values.redis -}}
{{ .url }}{{ if .ca.secret }}{{ contains "?" .url | ternary "&" "?" }}ssl_ca_certs=/etc/carousel/redis/{{ .ca.key }}{{ end }}
{{- end -}}
{{- end -}}

{{/* The names of the web interface's Service in the cluster, and those that are given. */}}
{{- define "carousel.webHosts" -}}
{{- $service := printf "%s-web" (include "carousel.fullname" .) -}}
{{- $space := printf "%s.%s" $service .Release.Namespace -}}
{{- $own := list $service $space (printf "%s.svc" $space) (printf "%s.svc.cluster.local" $space) -}}
{{- concat $own .Values.web.hosts | uniq | join "," -}}
{{- end -}}

{{- define "carousel.env" -}}
{{- $host := eq .Values.address "::" | ternary "[::]" .Values.address -}}
- {name: CAROUSEL_LISTEN, value: {{ printf "%s:50051" $host | quote }}}
- {name: CAROUSEL_HTTP_LISTEN, value: {{ printf "%s:9090" $host | quote }}}
- {name: CAROUSEL_DRAIN_SECONDS, value: {{ int .Values.drainSeconds | quote }}}
{{- if .Values.web.enabled }}
- {name: CAROUSEL_OPENAI_LISTEN, value: {{ printf "%s:8000" $host | quote }}}
- {name: CAROUSEL_OPENAI_HOSTS, value: {{ include "carousel.webHosts" . | quote }}}
{{- end }}
{{- with .Values.plaintext }}
- {name: CAROUSEL_PLAINTEXT, value: {{ . }}}
{{- end }}
{{- with .Values.tls }}
{{- if .secret }}
- {name: CAROUSEL_TLS_CERT, value: /etc/carousel/tls/tls.crt}
- {name: CAROUSEL_TLS_KEY, value: /etc/carousel/tls/tls.key}
{{- end }}
{{- if .clientCa.secret }}
- {name: CAROUSEL_TLS_CLIENT_CA, value: {{ printf "/etc/carousel/client-ca/%s" .clientCa.key | quote }}}
{{- end }}
{{- end }}
{{- with .Values.principals }}
{{- if .secret }}
- {name: CAROUSEL_PRINCIPALS, value: {{ printf "/etc/carousel/principals/%s" .key | quote }}}
{{- end }}
{{- end }}
{{- if .Values.redis.url }}
- {name: CAROUSEL_STORE, value: {{ include "carousel.store" . | quote }}}
{{- end }}
{{- range $name, $from := dict "STORE_PASSWORD" .Values.redis.password "SEAL_KEYS" .Values.sealKeys }}
{{- if $from.secret }}
- name: CAROUSEL_{{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $from.secret | quote }}, key: {{ $from.key | quote }}}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: CAROUSEL_{{ upper $name }}, value: {{ include "carousel.text" $value | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets that are files: volume -> Secret. The server reads changed ones again. */}}
{{- define "carousel.files" -}}
tls: {{ .Values.tls.secret | quote }}
client-ca: {{ .Values.tls.clientCa.secret | quote }}
principals: {{ .Values.principals.secret | quote }}
redis: {{ .Values.redis.ca.secret | quote }}
{{- end -}}

{{- define "carousel.mounts" -}}
- {name: tmp, mountPath: /tmp}
- name: bundle
  mountPath: /bundle
  readOnly: true
  {{- if and .Values.bundle.claim .Values.bundle.subPath }}
  subPath: {{ .Values.bundle.subPath | quote }}
  {{- end }}
{{- range $name, $secret := include "carousel.files" . | fromYaml }}
{{- if $secret }}
- {name: {{ $name }}, mountPath: /etc/carousel/{{ $name }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "carousel.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
- name: bundle
  {{- if .Values.bundle.claim }}
  persistentVolumeClaim: {claimName: {{ .Values.bundle.claim | quote }}, readOnly: true}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- range $name, $secret := include "carousel.files" . | fromYaml }}
{{- if $secret }}
- name: {{ $name }}
  secret: {secretName: {{ $secret | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- end -}}
