module example

go 1.18

require github.com/bn-export/bn-export/runtimes/go v0.2.0

replace github.com/bn-export/bn-export/runtimes/go => ../../runtimes/go
