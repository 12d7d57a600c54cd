package execgate

# METADATA
# title: What an allow obliges the gateway to do
# description: >-
#   The tenant's, such as redact or notify. Add rules to this set, in files of your own.
obligations contains obligation if some obligation in tenant.obligations
