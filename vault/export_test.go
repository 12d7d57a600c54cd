package vault

// Trusted is how long Vault is taken to be there after it did something.
const Trusted = trusted
