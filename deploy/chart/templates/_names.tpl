{{- define "carousel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* A name for Services: no dot, a letter first, room for a suffix. A long one ends in a hash, so that two stay two. */}}
{{- define "carousel.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = include "carousel.name" . -}}
{{- $name = contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- end -}}
{{- $name = $name | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $name -}}{{- $name = printf "c-%s" $name -}}{{- end -}}
{{- if gt (len $name) 50 -}}
{{- $name = printf "%s-%s" ($name | trunc 41 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "carousel.selector" -}}
app.kubernetes.io/name: {{ include "carousel.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Called with the root and a suffix of the name. */}}
{{- define "carousel.metadata" -}}
metadata:
  name: {{ printf "%s%s" (include "carousel.fullname" .root) .suffix | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "carousel.selector" .root | nindent 4 }}
    app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
    app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
    helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "carousel.serviceAccount" -}}
{{- $own := .Values.serviceAccount.create | ternary (include "carousel.fullname" .) "default" -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end -}}

{{- define "carousel.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "carousel.scales" -}}
{{- if or .Values.hpa.enabled .Values.keda.enabled -}}true{{- end -}}
{{- end -}}

{{- define "carousel.encryptsHttp" -}}
{{- if and .Values.tls.secret (not .Values.plaintext) -}}true{{- end -}}
{{- end -}}

{{/* The port of a URL; called with it and the port where it names none. */}}
{{- define "carousel.port" -}}
{{- $host := (urlParse .url).host -}}
{{- if regexMatch ":[0-9]+$" $host -}}{{- regexFind "[0-9]+$" $host -}}{{- else -}}{{- .otherwise -}}{{- end -}}
{{- end -}}
