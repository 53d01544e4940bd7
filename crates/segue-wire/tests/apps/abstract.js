'use strict';

require('net').createServer().listen('\0segue-record');
