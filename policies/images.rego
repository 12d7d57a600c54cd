package execgate

# METADATA
# title: Image
# description: Images are granted by name; the gateway resolves names to digests.
image_granted if input.action.image.name in tenant.images

# METADATA
# title: Digest of the image
image_digest := digest if {
	image_granted
	digest := data.images[input.action.image.name]
	startswith(digest, "sha256:")
}

# METADATA
# title: Language
# description: Empty where a command is run instead of code.
language_granted if input.action.language in ({name | some name in tenant.languages} | {""})

# METADATA
# title: Images are granted by name
# custom:
#   id: images.granted
#   code: image_not_granted
#   message: 'The image "<image>" is not granted to the tenant "<tenant>".'
#   remediation: "Ask for one of these images: <granted>."
deny contains reason(rego.metadata.rule(), {
	"<image>": object.get(input, ["action", "image", "name"], ""),
	"<tenant>": input.principal.tenant,
	"<granted>": listed(object.get(tenant, "images", [])),
}) if {
	tenant
	not image_granted
}

# METADATA
# title: Images are resolved to digests
# custom:
#   id: images.resolved
#   code: image_not_resolved
#   message: 'The image "<image>" is granted, but this gateway has no such image.'
#   remediation: "Ask for one of these images: <resolved>. The operator can build the image with `make images` and restart the gateway."
deny contains reason(rego.metadata.rule(), {
	"<image>": input.action.image.name,
	"<resolved>": listed({name | some name in tenant.images; data.images[name]}),
}) if {
	image_granted
	not image_digest
}

# METADATA
# title: Languages are granted by name
# custom:
#   id: images.language
#   code: language_not_granted
#   message: 'The language "<language>" is not granted to the tenant "<tenant>".'
#   remediation: "Ask for one of these languages: <granted>."
deny contains reason(rego.metadata.rule(), {
	"<language>": object.get(input, ["action", "language"], ""),
	"<tenant>": input.principal.tenant,
	"<granted>": listed(object.get(tenant, "languages", [])),
}) if {
	tenant
	not language_granted
}
