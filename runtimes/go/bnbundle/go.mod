module bnbundle

go 1.18
