module github.com/bn-export/bn-export/runtimes/go

go 1.18
