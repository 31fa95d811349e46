package checkers

var (
	VersionBuilt    = versionBuilt
	VersionRequired = versionRequired
)
