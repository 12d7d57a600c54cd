package execution

// RecordTypes lists every type of record.
func RecordTypes() []RecordType {
	return []RecordType{
		RecordDecided, RecordStarted, RecordEnded, RecordSession, RecordAuthenticationFailed, RecordPolicyActivated, RecordPolicyRefused, RecordPolicyDropped,
		RecordKeyCreated, RecordKeyRevoked, RecordApprovalRequested, RecordApprovalApproved, RecordApprovalDenied,
		RecordApprovalExpired, RecordApprovalVoided, RecordPolicyFlip, RecordReplayDiffers, RecordLeaseIssued,
		RecordLeaseRevoked, RecordEgressDecided, RecordEgressEnded, RecordGap, RecordAuditKeyRotated,
		RecordSegmentsRemoved, RecordHeartbeat, RecordAuditRead,
		RecordConfigChanged, RecordErased,
	}
}
