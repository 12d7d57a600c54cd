package execgate

# METADATA
# title: Image
# description: Images are granted by name; the gateway resolves names to digests.
image_granted if input.action.image.name in tenant.images

# METADATA
# title: Digest of the image
# description: None for a call that runs nothing.
image_digests := [digest] if {
	image_granted
	digest := data.images[input.action.image.name]
	startswith(digest, "sha256:")
} else := [] if runs_nothing

# METADATA
# title: Language
# description: Empty where a command is run instead of code.
language_granted if input.action.language == ""

language_granted if input.action.language in tenant.languages

# METADATA
# title: Images are granted by name
# custom:
#   id: images.granted
#   code: image_not_granted
#   message: "This image is not granted: "
#   remediation: "Ask for one of the images that are granted: "
refused contains reason(rego.metadata.rule(), object.get(input, ["action", "image", "name"], ""), concat(", ", object.get(tenant, "images", []))) if {
	not image_granted
	tenant
	call_granted
	not runs_nothing
}

# METADATA
# title: Images are resolved to digests
# custom:
#   id: images.resolved
#   code: image_not_resolved
#   message: "This image is granted, but it is not on this gateway: "
#   remediation: "Ask the operator to make it (make setup, or build it and tag it as images.yaml says; no restart is needed), or ask for one that is there: "
refused contains reason(rego.metadata.rule(), input.action.image.name, concat(", ", {name | some name in tenant.images; data.images[name]})) if {
	image_granted
	not image_digests
}

# METADATA
# title: Languages are granted by name
# custom:
#   id: images.language
#   code: language_not_granted
#   message: "This language is not granted: "
#   remediation: "Ask for one of the languages that are granted: "
refused contains reason(rego.metadata.rule(), object.get(input, ["action", "language"], ""), concat(", ", object.get(tenant, "languages", []))) if {
	not language_granted
	tenant
}
