{{/* Settings that have values of their own. */}}
{{- define "carousel.ownValues" -}}
listen: address
http_listen: address
openai_listen: web.enabled
openai_hosts: web.hosts
tls_cert: tls
tls_key: tls
tls_client_ca: tls.clientCa
plaintext: plaintext
principals: principals
store: redis.url
store_password: redis.password
memory_file: redis.url
seal_keys: sealKeys
drain_seconds: drainSeconds
{{- end -}}

{{/* What would start and be unsafe or lose sessions is refused here, with what to do. */}}
{{- define "carousel.refuse" -}}
{{- with .Values -}}

{{- if and (not .tls.secret) (ne .plaintext "everywhere") -}}
{{- if .principals.secret -}}
{{- fail "principals: tokens would travel unencrypted; set tls.secret, or plaintext=everywhere where something else encrypts" -}}
{{- end -}}
{{- fail "callers would connect unencrypted; set tls.secret, or plaintext=everywhere where that is meant" -}}
{{- end -}}
{{- if and .tls.secret (eq .plaintext "everywhere") -}}
{{- fail "plaintext=everywhere contradicts tls.secret; plaintext=http leaves metrics and probes plain" -}}
{{- end -}}
{{- if and .tls.clientCa.secret (not .tls.secret) -}}
{{- fail "tls.clientCa.secret needs tls.secret" -}}
{{- end -}}

{{- if and .web.hosts (not .web.enabled) -}}
{{- fail "web.hosts needs web.enabled" -}}
{{- end -}}

{{- if and .bundle.claim .bundle.image -}}
{{- fail "bundle.claim and bundle.image exclude each other" -}}
{{- end -}}
{{- if not (or .bundle.claim .bundle.image) -}}
{{- fail "there is no model; set bundle.claim or bundle.image" -}}
{{- end -}}

{{- if and .hpa.enabled .keda.enabled -}}
{{- fail "hpa and keda exclude each other: both decide the number of replicas" -}}
{{- end -}}
{{- range $name := list "hpa" "keda" -}}
{{- with index $.Values $name -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "%s.minReplicas is above %s.maxReplicas" $name $name) -}}
{{- end -}}
{{- if and .enabled (gt (int .maxReplicas) 1) (not $.Values.redis.url) -}}
{{- fail (printf "%s.maxReplicas above 1 needs redis.url: without it, replicas do not see each other's sessions" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not (include "carousel.scales" $)) (gt (int .replicas) 1) (not .redis.url) -}}
{{- fail "replicas above 1 needs redis.url: without it, replicas do not see each other's sessions" -}}
{{- end -}}
{{- if and .hpa.enabled (not (dig "requests" "cpu" "" .resources)) -}}
{{- fail "hpa measures the share of resources.requests.cpu, which is not set" -}}
{{- end -}}
{{- if and .keda.enabled (not .keda.prometheus) -}}
{{- fail "keda.prometheus must be the URL of the Prometheus that scrapes the pods" -}}
{{- end -}}

{{- if and (not .redis.url) (or .redis.password.secret .redis.ca.secret) -}}
{{- fail "redis.password and redis.ca need redis.url" -}}
{{- end -}}
{{- if and .redis.ca.secret (not (hasPrefix "rediss://" .redis.url)) -}}
{{- fail "redis.ca needs a redis.url that begins with rediss://" -}}
{{- end -}}

{{- if .podMonitor.enabled -}}
{{- if and (include "carousel.encryptsHttp" $) (not .podMonitor.endpoint.tlsConfig) -}}
{{- fail "podMonitor.endpoint.tlsConfig must say how Prometheus checks the certificate, or plaintext=http leaves metrics plain" -}}
{{- end -}}
{{- if and .principals.secret (not (or .podMonitor.endpoint.authorization .podMonitor.endpoint.tlsConfig)) -}}
{{- fail "podMonitor.endpoint.authorization must name the token of a principal with the scope metrics" -}}
{{- end -}}
{{- end -}}

{{- $own := include "carousel.ownValues" $ | fromYaml -}}
{{- range $name, $value := .settings -}}
{{- with get $own $name -}}
{{- fail (printf "settings.%s: set the value %s instead" $name .) -}}
{{- end -}}
{{- end -}}
{{- range .extraEnv -}}
{{- if hasPrefix "CAROUSEL_" .name -}}
{{- fail (printf "extraEnv: %s is a setting; write it under settings" .name) -}}
{{- end -}}
{{- end -}}

{{- end -}}
{{- end -}}
